# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from wharfie.linux import mountapi as k
from wharfie.mount.options import known_words, parse


def test_words_are_sorted() -> None:
    o = parse(["rbind", "ro", "nosuid", "rslave", "rnoexec", "mode=755", "uidmap=0:1:2", "sync", "tmpcopyup", "ridmap"])
    assert (o.bind, o.rbind, o.read_only, o.tmpcopyup, o.idmap) == (True, True, True, True, "ridmap")
    assert o.attr_set == k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID
    assert o.recursive_set == k.MOUNT_ATTR_NOEXEC
    assert o.propagation == ((k.MS_SLAVE, True),)
    assert (o.data, o.uid_map, o.superblock) == (("mode=755",), "0:1:2", ("sync",))


def test_the_last_word_wins() -> None:
    assert parse(["ro", "rw"]).attr_set == 0
    assert parse(["rw", "ro"]).attr_set == k.MOUNT_ATTR_RDONLY
    o = parse(["noatime", "strictatime"])
    assert (o.attr_set, o.attr_clr) == (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME)


def test_every_documented_word_is_known() -> None:
    documented = (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec "
        "noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime "
        "relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro "
        "rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave "
        "strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap"
    )
    for word in documented.split():
        assert parse([word]).data == (), word
    assert {"ro", "rro", "rbind", "idmap"} <= set(known_words())
