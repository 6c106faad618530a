# SPDX-License-Identifier: Apache-2.0
"""Pure types and grammar of the published standards, one module per document.

Wire spelling (ociVersion, mediaType) lives only here; everything else uses the snake_case fields.
No I/O, no dependence on other packages but errdefs.
"""
