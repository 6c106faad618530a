# SPDX-License-Identifier: Apache-2.0
"""From Docker's words to the OCI runtime spec: defaults and translations, all pure functions.

In come an image's config, a `ContainerCreateBody` and facts about the host; out go parts of a `spec.runtime.Spec`.
Nothing here opens a file, except through the callables of `SpecInputs` and the probe that `facts.probe()` is.

    facts        what this host can do (HostFacts)
    caps         capability names, --cap-add/--cap-drop
    seccomp      the default profile, and profiles in Docker's JSON form
    devices      default device nodes and rules, --device
    resources    limits
    mounts       -v, --mount, --tmpfs and image volumes -> MountRequest; default mounts
    user         USER words -> numbers, from the image's passwd and group files
    namespaces   --pid, --ipc, --network, --uts, --userns, --cgroupns and how they bind each other
    security     --security-opt
"""
