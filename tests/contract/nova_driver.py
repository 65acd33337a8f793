# SPDX-License-Identifier: Apache-2.0
"""Calls Nova's own accelerator client, one line of JSON in and one out, in Nova's environment.

It imports nothing of ours. Each call is made with a new client and a context built the way
nova-api builds it from a request: the user's token and the catalogue of that token.
Arguments: a nova.conf. A line: {"user": {keystoneauth options}, "method": NAME, "arguments": [...]}
"""

import json
import sys
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3
from nova import conf
from nova import config
from nova import context
from nova import objects
from nova.accelerator import cyborg
from nova.objects import base


def version_2_catalogue(access: Any) -> list[dict[str, Any]]:
    """Return the catalogue in the shape in which keystonemiddleware hands it to Nova."""
    catalogue = []
    for service in access.service_catalog.catalog:
        endpoints: dict[str, dict[str, str]] = {}
        for endpoint in service["endpoints"]:
            region = endpoints.setdefault(endpoint["region_id"], {"region": endpoint["region_id"]})
            region[f"{endpoint['interface']}URL"] = endpoint["url"]
        catalogue.append({"type": service["type"], "name": service["name"],
                          "endpoints": list(endpoints.values())})
    return catalogue


def context_of(user: dict[str, str]) -> Any:
    """Return the context of a request of that user."""
    login = v3.Password(**user)
    access = login.get_access(session.Session())
    return context.RequestContext(
        user_id=access.user_id, project_id=access.project_id, auth_token=access.auth_token,
        service_catalog=version_2_catalogue(access), overwrite=True)


def plain(value: Any) -> Any:
    """Turn Nova's objects into JSON values."""
    if isinstance(value, base.NovaObject):
        return {"requester_id": value.requester_id, "resources": value.resources,
                "required_traits": sorted(value.required_traits),
                "forbidden_traits": sorted(value.forbidden_traits)}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


def call(line: str) -> dict[str, Any]:
    """Make one call; an exception is an answer too."""
    wanted = json.loads(line)
    who = context_of(wanted["user"])
    function = getattr(cyborg, wanted["method"], None)
    try:
        if function is not None:
            return {"result": plain(function(who, *wanted["arguments"]))}
        client = cyborg.get_client(who)
        return {"result": plain(getattr(client, wanted["method"])(*wanted["arguments"]))}
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}


def main() -> None:
    config.parse_args(["nova", "--config-file", sys.argv[1]], configure_db=False,
                      init_rpc=False)
    objects.register_all()
    assert conf.CONF.service_user.send_service_user_token
    answers = sys.stdout
    # whatever else writes must not come between the answers
    sys.stdout = sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(call(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
