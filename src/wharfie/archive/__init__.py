# SPDX-License-Identifier: Apache-2.0
"""Archives: tar streams read without trust and written without chance, and their compression.

`compression.inflate(stream, kind)` gives chunks of the tar; `scan.Scanner(chunks)` gives one `entry.Entry` after the
other, normalised and checked; `write.Writer` makes the one tar that a list of entries has. Nothing here touches a file
system: `..`, reserved names and links are settled before anybody opens a path.

Whiteouts (OCI image-spec layer.md) are ordinary entries here; `layer` knows their names.
"""
