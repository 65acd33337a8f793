# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser. A package, so that its service ends with its last test."""
