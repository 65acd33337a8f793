# SPDX-License-Identifier: Apache-2.0
"""A keystoneauth plugin: a user's password login that carries a service token beside it.

No client has one, and a bind from the command line needs it: put on the path of an unmodified
client, `OS_AUTH_TYPE=v3servicetoken` selects it, as operators would do it.
"""

from typing import Any

from keystoneauth1 import loading
from keystoneauth1 import service_token
from keystoneauth1.identity import v3
from keystoneauth1.loading._plugins.identity import v3 as v3_loading


class Login(service_token.ServiceTokenAuthWrapper):
    """What the wrapper leaves out and command-line clients ask for."""

    def get_access(self, session: Any) -> Any:
        return self.user_auth.get_access(session)

    def get_auth_ref(self, session: Any) -> Any:
        return self.user_auth.get_auth_ref(session)


class Loader(v3_loading.Password):
    """The options of a password login, and the service's user, password and project."""

    def get_options(self) -> list[Any]:
        return [*super().get_options(),
                loading.Opt("service-username", help="User of the service token."),
                loading.Opt("service-password", help="Password of that user.", secret=True),
                loading.Opt("service-project-name", help="Project of that user.")]

    def load_from_options(self, **options: Any) -> Login:
        service = {name: options.pop(f"service_{name}")
                   for name in ("username", "password", "project_name")}
        return Login(super().load_from_options(**options), v3.Password(
            auth_url=options["auth_url"], user_domain_name="Default",
            project_domain_name="Default", **service))
