# SPDX-License-Identifier: Apache-2.0
"""`wharfie-oci`: the Linux runtime with runc's command line, for podman, dockerd, containerd and people.

main       arguments, errors, exit codes
flags      the flag tables and their parser
store      state directories below --root
lifecycle  create run start exec kill delete pause resume update
checkpoint checkpoint restore
report     state list ps events features spec
tty        copying between terminals
"""
