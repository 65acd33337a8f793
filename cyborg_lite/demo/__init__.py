# SPDX-License-Identifier: Apache-2.0
"""The guided tour: `python3 -m cyborg_lite.demo`. Nothing here is used by the service."""
