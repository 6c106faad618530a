# SPDX-License-Identifier: Apache-2.0
"""Every command by name. Modules are named by text and imported when their command is chosen.

`COMMANDS` are the ones at the top, `NOUNS` the management forms, `LATER` what docker has and wharfie will have.
A value is "module:OBJECT" below wharfie.cli, and the summary that the overview shows.
"""

from __future__ import annotations

from wharfie.cli.command import Command

_CONTAINER = {
    "attach": ("container.attach:ATTACH", "Connect this terminal to a running container"),
    "commit": ("container.commit:COMMIT", "Make an image from a container's changes"),
    "cp": ("container.copy:CP", "Copy files between a container and this machine"),
    "create": ("container.create:CREATE", "Make a container without starting it"),
    "diff": ("container.commit:DIFF", "List the files that a container changed"),
    "exec": ("container.execute:EXEC", "Run a command in a running container"),
    "export": ("container.commit:EXPORT", "Write a container's files as a tar archive"),
    "inspect": ("inspect:CONTAINER", "Show everything known about containers"),
    "kill": ("container.lifecycle:KILL", "Send a signal to running containers"),
    "logs": ("container.logs:LOGS", "Show what a container wrote"),
    "ls": ("container.list:PS", "List containers"),
    "pause": ("container.lifecycle:PAUSE", "Freeze all processes of containers"),
    "port": ("container.port:PORT", "Show where a container's ports are published"),
    "prune": ("prune:CONTAINERS", "Remove all stopped containers"),
    "rename": ("container.lifecycle:RENAME", "Give a container another name"),
    "restart": ("container.lifecycle:RESTART", "Stop and start containers"),
    "rm": ("container.lifecycle:RM", "Remove containers"),
    "run": ("container.run:RUN", "Make a container from an image and start it"),
    "start": ("container.start:START", "Start containers"),
    "stats": ("container.stats:STATS", "Show what containers use, live"),
    "stop": ("container.lifecycle:STOP", "Stop running containers"),
    "top": ("container.top:TOP", "Show the processes of a container"),
    "unpause": ("container.lifecycle:UNPAUSE", "Let frozen containers go on"),
    "update": ("container.update:UPDATE", "Change the limits of containers"),
    "wait": ("container.lifecycle:WAIT", "Wait until containers stop, then print their exit codes"),
}
_IMAGE = {
    "history": ("image.history:HISTORY", "Show the steps an image was made by"),
    "import": ("image.archive:IMPORT", "Make an image from a tar archive of files"),
    "inspect": ("inspect:IMAGE", "Show everything known about images"),
    "load": ("image.archive:LOAD", "Load images from an archive"),
    "ls": ("image.list:IMAGES", "List images"),
    "prune": ("prune:IMAGES", "Remove unused images"),
    "pull": ("image.pull:PULL", "Download an image from a registry"),
    "push": ("image.push:PUSH", "Upload an image to a registry"),
    "rm": ("image.remove:RMI", "Remove images"),
    "save": ("image.archive:SAVE", "Write images as an archive"),
    "tag": ("image.remove:TAG", "Give an image another name"),
}
_VOLUME = {
    "create": ("volume:CREATE", "Make a volume"),
    "inspect": ("inspect:VOLUME", "Show everything known about volumes"),
    "ls": ("volume:LS", "List volumes"),
    "prune": ("prune:VOLUMES", "Remove unused volumes"),
    "rm": ("volume:RM", "Remove volumes"),
}
_NETWORK = {
    "connect": ("network:CONNECT", "Connect a container to a network"),
    "create": ("network:CREATE", "Make a network"),
    "disconnect": ("network:DISCONNECT", "Disconnect a container from a network"),
    "inspect": ("inspect:NETWORK", "Show everything known about networks"),
    "ls": ("network:LS", "List networks"),
    "prune": ("prune:NETWORKS", "Remove unused networks"),
    "rm": ("network:RM", "Remove networks"),
}
_SYSTEM = {
    "df": ("system.df:DF", "Show what takes space on disk"),
    "events": ("system.events:EVENTS", "Show what happens in the engine, as it happens"),
    "info": ("system.info:INFO", "Show facts about the engine and its host"),
    "prune": ("prune:SYSTEM", "Remove unused data"),
}
NOUNS = {
    "container": ("Manage containers", _CONTAINER),
    "image": ("Manage images", _IMAGE),
    "network": ("Manage networks", _NETWORK),
    "system": ("Manage the engine", _SYSTEM),
    "volume": ("Manage volumes", _VOLUME),
}
COMMANDS = {
    **{name: _CONTAINER[name] for name in _CONTAINER if name not in ("inspect", "ls", "prune")},
    **{name: _IMAGE[name] for name in ("history", "import", "load", "pull", "push", "save", "tag")},
    "events": _SYSTEM["events"],
    "images": _IMAGE["ls"],
    "info": _SYSTEM["info"],
    "inspect": ("inspect:ANY", "Show everything known about an object"),
    "login": ("system.login:LOGIN", "Log in to a registry"),
    "logout": ("system.login:LOGOUT", "Log out from a registry"),
    "ps": _CONTAINER["ls"],
    "rmi": _IMAGE["rm"],
    "search": ("image.search:SEARCH", "Search a registry for images"),
    "version": ("system.version:VERSION", "Show the versions of client and engine"),
}
COMMON = ("run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info")
_ALIASES = {
    ("container", "list"): "ls",
    ("container", "ps"): "ls",
    ("container", "remove"): "rm",
    ("image", "list"): "ls",
    ("image", "remove"): "rm",
    ("network", "list"): "ls",
    ("network", "remove"): "rm",
    ("volume", "list"): "ls",
    ("volume", "remove"): "rm",
}
LATER = {
    "build": "building images", "builder": "building images", "buildx": "building images", "buildctl": "building images",
    "checkpoint": "checkpoint and restore", "compose": "compose", "config": "swarm", "context": "contexts",
    "ctr": "the containerd command line", "manifest": "manifest lists", "node": "swarm", "plugin": "plugins", "secret": "swarm",
    "service": "swarm", "stack": "swarm", "swarm": "swarm", "trust": "content trust",
}  # fmt: skip


def entry(words: list[str]) -> tuple[str, int] | None:
    """The "module:OBJECT" for the words in front, and how many of them name it; None when they name nothing."""
    if not words:
        return None
    if words[0] in COMMANDS:
        return COMMANDS[words[0]][0], 1
    if words[0] in NOUNS and len(words) > 1:
        verb = _ALIASES.get((words[0], words[1]), words[1])
        found = NOUNS[words[0]][1].get(verb)
        return (found[0], 2) if found else None
    return None


def load(target: str) -> Command:
    """Import the module of "module:OBJECT" and give its object."""
    module, _, name = target.partition(":")
    loaded = __import__(f"wharfie.cli.{module}", fromlist=(name,))
    command: Command = getattr(loaded, name)
    return command


def aliases_of(path: str) -> list[str]:
    """All the ways to say the command that `path` ("wharfie ps") names."""
    found = entry(path.split()[1:])
    if found is None:
        return []
    names = [
        f"wharfie {noun} {verb}" for noun, (_, verbs) in NOUNS.items() for verb, v in verbs.items() if v[0] == found[0]
    ]
    names += [f"wharfie {noun} {a}" for (noun, a), verb in _ALIASES.items() if NOUNS[noun][1][verb][0] == found[0]]
    return names + [f"wharfie {name}" for name, v in COMMANDS.items() if v[0] == found[0]]
