package postfix

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// sockets checks whether this Postfix uses each listener, and whether the user of Postfix can reach it.
func (c *checker) sockets() {
	owner, err := lookup(c.setup.Main["mail_owner"])
	for i, l := range c.milter.Listen {
		where := "postern.yaml: milter.listen[" + strconv.Itoa(i) + "]"
		switch {
		case !c.used[i]:
			if len(c.used) > 0 {
				c.add(Warning, where, "remove it, or name it in smtpd_milters", "nothing in this Postfix uses %s", l)
			}
		case l.Network != "unix":
		case err != nil:
			c.add(Error, "main.cf: mail_owner", "set it to the user of Postfix", "%v", err)
		default:
			c.socket(where, l, owner)
		}
	}
}

// identity is a user with its primary group, which is the only group of Postfix's daemons.
type identity struct {
	name     string
	uid, gid int
}

func lookup(name string) (identity, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return identity{}, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return identity{}, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return identity{name, uid, gid}, err
}

// socket checks the directories above a unix socket, and the permissions that the socket has or will have.
func (c *checker) socket(where string, l Listener, owner identity) {
	dir := filepath.Dir(l.Address)
	parent, err := os.Stat(dir)
	if err != nil {
		c.add(Warning, where, "make the directory before postern serve starts", "%s: %v", dir, err.(*fs.PathError).Err)
		return
	}
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && !owner.may(info.Mode(), ownerOf(info), 1) {
			c.add(Error, where, "chgrp "+owner.name+" "+d+" && chmod g+x "+d, "Postfix's user %s cannot pass through %s (%s)", owner.name, d, info.Mode())
		}
		if d == c.setup.Main["queue_directory"] || d == filepath.Dir(d) { // the working directory of Postfix's daemons
			break
		}
	}
	mode, of := l.Mode, [2]int{-1, -1}
	if parent.Mode()&fs.ModeSetgid != 0 {
		of[1] = ownerOf(parent)[1]
	}
	if l.Group != "" {
		of[1] = groupID(l.Group)
	}
	if info, err := os.Lstat(l.Address); err == nil && info.Mode()&fs.ModeSocket != 0 {
		mode, of = info.Mode(), ownerOf(info)
	}
	if !owner.may(mode, of, 2) {
		c.add(Error, where, "write {address: "+strconv.Quote(l.String())+`, group: `+owner.name+`, mode: "0660"}`,
			"Postfix's user %s cannot write to %s (mode %04o, group %s)", owner.name, l.Address, mode.Perm(), groupName(of[1]))
	}
}

// may reports whether the user has a permission: bit is 1 for passing a directory, 2 for writing. of is the owner and group.
func (i identity) may(mode fs.FileMode, of [2]int, bit fs.FileMode) bool {
	switch {
	case i.uid == of[0]:
		bit <<= 6
	case i.gid == of[1]:
		bit <<= 3
	}
	return mode.Perm()&bit != 0
}

func ownerOf(info fs.FileInfo) [2]int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return [2]int{int(s.Uid), int(s.Gid)}
	}
	return [2]int{-1, -1}
}

func groupID(group string) int {
	if n, err := strconv.Atoi(group); err == nil {
		return n
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return -1
	}
	n, _ := strconv.Atoi(g.Gid)
	return n
}

func groupName(gid int) string {
	if gid < 0 {
		return "of the process"
	}
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
