# SPDX-License-Identifier: Apache-2.0
"""The benchmark's arithmetic, its options, and a run against a service that does nothing.

No figure is judged here.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3

import pytest

from tests.bench import __main__ as command
from tests.bench import boots
from tests.bench import figures
from tests.bench import meters
from tests.bench import nova
from tests.bench import null_service
from tests.bench import plan
from tests.bench import reports
from tests.bench import seeds
from tests.bench import serving
from tests.bench import targets
from tests.bench import tokens
from tests.bench import wire


@pytest.fixture
def recorder():
    with nova.Recorder("127.0.0.1:0") as running:
        yield running


@pytest.fixture
def null(recorder):
    service = null_service.NullService("127.0.0.1:0", f"http://{recorder.address}/v2.1")
    service.start()
    yield service
    service.stop()


def a_target(url="http://127.0.0.1:6666/v2", **settings):
    return targets.from_settings({"name": "one", "url": url, "auth": "noauth", **settings}, {})


@contextlib.contextmanager
def wire_to(recorder):
    connection = wire.Connection(f"http://{recorder.address}/v2.1")
    yield connection
    connection.close()


def a_round(values, units=1, wall_s=1.0, **meters_read):
    return {"units": units, "wall_s": wall_s, "samples": {"step": values},
            "meters": meters_read, "errors": []}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.95, 10), (0.9, 9), (0.0, 1)])
def test_a_percentile_is_the_smallest_sample_that_the_share_does_not_exceed(share, expected):
    assert figures.percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], share) == expected


def test_rounds_are_merged_by_the_work_that_was_done_in_each():
    merged = figures.merged([a_round([1, 2, 3], units=3, wall_s=1.0, sql=4.0),
                             a_round([9], units=1, wall_s=1.0, sql=8.0)])

    assert merged["steps"]["step"]["median"] == 2.5
    assert merged["per_second"] == 2
    assert merged["meters"] == {"sql": 5}
    assert merged["rounds"] == [{"step": 2}, {"step": 9}]


def test_a_ratio_above_one_says_that_the_first_target_needs_less():
    fast = figures.merged([a_round([2.0], units=100, sql=3.0, logins=0.0)])
    slow = figures.merged([a_round([20.0], units=10, sql=6.0, logins=1.0)])

    found = figures.compared(fast, slow, "step")

    assert found["median"] == 10
    assert found["per_second"] == 10
    assert found["by_round"] == [10]
    assert found["meters"] == {"sql": 2, "logins": None}


def test_a_meter_is_divided_by_the_units_of_work():
    assert figures.per_unit({"sql": 10.0}, {"sql": 40.0, "new": 1.0}, 10) == {"sql": 3.0}
    assert figures.per_unit({"sql": 10.0}, {"sql": 40.0}, 0) == {}


@pytest.mark.parametrize(("value", "text"), [
    (None, "-"), (0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (25341.2, "25341")])
def test_figures_are_written_with_three_digits_that_count(value, text):
    assert figures.number(value) == text


@pytest.mark.parametrize(("settings", "complaint"), [
    ({"url": "http://192.0.2.1/v2"}, "not a loopback address"),
    ({"auth": "basic"}, "allowed are keystone and noauth"),
    ({"auth": "keystone"}, "needs auth_url"),
    ({"schema": "other"}, "allowed are cyborg-lite, cyborg"),
    ({"colour": "red"}, "unknown setting colour"),
    ({"nova_listen": "127.0.0.1:1", "nova_wait": "http://127.0.0.1:1"}, "exclude each other"),
    ({"database": "mysql://u:p@db.example.org/x"}, "db.example.org is not a loopback address"),
])
def test_a_target_that_can_not_be_is_refused_with_the_reason(settings, complaint):
    with pytest.raises(targets.BadTarget, match=complaint):
        a_target(**settings)


def test_an_address_beyond_loopback_is_taken_when_allowed():
    assert targets.from_settings({"name": "far", "url": "http://192.0.2.1/v2", "auth": "noauth"},
                                 {}, beyond_loopback=True).url == "http://192.0.2.1/v2"


def test_keystone_settings_come_from_the_environment_unless_set():
    target = targets.from_settings(
        {"name": "one", "url": "http://127.0.0.1/v2", "username": "me"},
        {"OS_AUTH_URL": "http://127.0.0.1/v3", "OS_USERNAME": "other", "OS_PASSWORD": "pw"})

    assert (target.auth_url, target.username, target.password) == (
        "http://127.0.0.1/v3", "me", "pw")


def test_options_over_a_file_win_and_lists_are_decoded(tmp_path):
    file = tmp_path / "target.toml"
    file.write_text('name = "one"\nurl = "http://127.0.0.1/v2"\nauth = "noauth"\n')
    options = command.parser().parse_args(
        ["--target", str(file), "--set", "hostname=node7", "--set", 'providers=["a", "b"]'])

    [target] = command.chosen_targets(options)

    assert (target.hostname, target.providers) == ("node7", ["a", "b"])


@pytest.mark.parametrize("arguments", [
    ["--cases", "boot,cook"], ["--concurrency", "1,x"], ["--sizes", "-1"], ["--rounds", "0"]])
def test_options_that_can_not_be_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        command.parser().parse_args(arguments)
    assert "error" in capsys.readouterr().err


def test_the_recorder_pages_the_servers_of_the_hosts_that_are_asked_for(recorder):
    recorder.servers = seeds.servers(40 * seeds.DEVICES_PER_HOST)
    with wire_to(recorder) as connection:
        first = connection.request(
            "GET", "/servers/detail?node=%5Ebench-seed-1%24&limit=1000").json()
        last = connection.request(
            "GET", "/servers/detail?node=%5Ebench-seed-1%24&limit=1000"
                   f"&marker={first['servers'][-1]['id']}").json()

    assert (len(first["servers"]), bool(first["servers_links"])) == (1000, True)
    assert (len(last["servers"]), last["servers_links"]) == (24, [])
    assert {server["OS-EXT-SRV-ATTR:host"] for server in first["servers"]} == {"bench-seed-1"}


def test_a_log_meter_counts_whole_lines_with_its_text(tmp_path):
    log = tmp_path / "access.log"
    log.write_text("POST /v3/auth/tokens 201\nGET /v3 200\nPOST /v3/auth")
    meter = meters.LogMeter(str(log), "POST /v3/auth/tokens")

    first = meter.read()
    with log.open("a") as file:
        file.write("/tokens 201\n")

    assert (first, meter.read()) == (1, 2)


def test_the_wire_reads_kept_chunked_and_empty_answers():
    def answer(method, path, body):
        return (204, None) if method == "DELETE" else (200, {"path": path, "body": body.decode()})

    server = serving.Server("127.0.0.1:0", answer)
    server.start()
    connection = wire.Connection(f"http://{server.address}/base")
    try:
        assert connection.request("POST", "/x?y=1", {"a": 1}).json() == {
            "path": "/base/x?y=1", "body": '{"a": 1}'}
        assert connection.request("DELETE", "/x").status == 204
        assert connection.request("GET", "/z").json()["path"] == "/base/z"
    finally:
        connection.close()
        server.stop()


def test_events_that_came_before_the_wait_count(recorder):
    event = {"server_uuid": "i", "tag": "a"}
    recorder.record([event, event])

    assert recorder.wait("i", 2, 0) is not None
    assert recorder.wait("i", 3, 0) is None


def test_a_boot_whose_event_never_comes_is_an_error_and_cleans_up(recorder):
    seen = []

    def answer(method, path, body):
        seen.append((method, path))
        canned = {"GET": (200, {"device_profiles": []}), "POST": (201, {"arqs": [{"uuid": "a"}]}),
                  "PATCH": (409, {"reason": "no free handle"}), "DELETE": (204, None)}
        return canned[method]

    server = serving.Server("127.0.0.1:0", answer)
    server.start()
    target = a_target(f"http://{server.address}", hostname="h")
    site = boots.Site(target, tokens.identity(target), recorder, ["p"], 1)
    connection = site.connection()
    try:
        with pytest.raises(boots.BootFailed, match=r"409 instead of 202.*no free handle"):
            boots.boot(site, connection, 1, "p")
    finally:
        connection.close()
        server.stop()

    assert seen[-1] == ("DELETE", "/accelerator_requests?arqs=a")


def test_a_whole_run_of_two_targets_gives_figures_steps_and_ratios(null, tmp_path, capsys):
    """The null service tells its own recorder; each target here waits at that one."""
    recorder = serving.Server("127.0.0.1:0", lambda method, path, body: (
        200, {"events": [{"t": 0.0}] * 8}))
    recorder.start()
    lines = (f'url = "http://{null.address}/v2"\nauth = "noauth"\n'
             f'hostname = "{null_service.HOSTNAME}"\n'
             f'nova_wait = "http://{recorder.address}/wait"\n[pids]\napi = [{1}]\n')
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\n{lines}')
    out = tmp_path / "out.json"

    status = command.main([
        "--target", str(tmp_path / "one.toml"), "--pair", str(tmp_path / "two.toml"),
        "--cases", "idle,boot", "--boots", "3", "--rounds", "2", "--beside", "0",
        "--concurrency", "1,2", "--budget", "5", "--json", str(out)])
    recorder.stop()

    report = json.loads(out.read_text())
    assert status == 0
    case = report["cases"]["boot x2, 8 acc, beside 0"]
    assert case["one"]["units"] == case["two"]["units"] == 12
    assert case["one"]["errors"] == []
    assert set(case["one"]["steps"]) == {boots.UNTIL_EVENT, *boots.STEPS}
    assert len(report["ratios"]["boot x1, 1 acc, beside 0"]["by_round"]) == 2
    assert report["generator"]["boot x1, 1 acc"]["meters"]["cpu_ms.generator"] >= 0
    printed = capsys.readouterr().out
    assert "two / one" in printed
    assert "boot x2, 8 acc, beside 0: one" in printed


def test_a_target_that_does_not_answer_ends_the_run_with_status_2(capsys):
    status = command.main(["--url", "http://127.0.0.1:9/v2", "--set", "auth=noauth",
                           "--cases", "idle", "--concurrency", "1", "--budget", "0.01"])

    assert status == 2
    assert capsys.readouterr().err.startswith("bench:")


def test_what_is_stored_for_a_case_is_taken_out_again(tmp_path):
    import sqlalchemy

    from cyborg_lite.db import models

    path = tmp_path / "seed.sqlite"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    models.metadata.create_all(engine)
    with engine.begin() as schema:
        schema.execute(sqlalchemy.insert(models.device_profiles).values(
            uuid="u", name="bench-1", groups="[]", created_at=datetime.datetime(2026, 1, 1)))
    engine.dispose()
    connection = sqlite3.connect(path)
    seeder = seeds.CyborgLiteSeeder(f"sqlite:///{path}", "project", "bench-1", "FPGA", "CUSTOM_X")

    def counts():
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in (
            "devices", "deployables", "attach_handles", "arqs")]

    seeder.seed(3, 10)
    stored = counts()
    held = connection.execute("SELECT count(*) FROM attach_handles JOIN arqs "
                              "ON arqs.uuid = attach_handles.arq_uuid WHERE "
                              "attach_handles.state = 'in_use' AND arqs.state = 'Bound'")

    assert stored == [3, 3, 12, 10]
    assert held.fetchone() == (10,)
    seeder.close()
    assert counts() == [0, 0, 0, 0]
    connection.close()


def test_a_reporter_that_ends_is_an_error_and_no_figure():
    with reports.Reporter(["true"]) as reporter:
        assert "ended with 0" in reporter._answer()["error"]


def test_every_case_family_is_known_to_the_run():
    assert all(hasattr(plan.Run, f"_{family}") for family in plan.FAMILIES)
