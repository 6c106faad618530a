# SPDX-License-Identifier: Apache-2.0
"""Wharfie beside docker, podman, containerd and bare OCI runtimes, in one run. `python -m bench --help`."""
