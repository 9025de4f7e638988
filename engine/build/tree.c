/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entering a tree; see build/tree.h.
 *
 * Shared directories are opened before the root changes and mounted behind it through
 * /proc/self/fd: so a symbolic link in the tree cannot lead a mount back into our own file system.
 */
#include "build/tree.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Makes a directory and what is missing above it; @path is absolute and is changed meanwhile. */
static int make_path(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(path, 0755) && errno != EEXIST)
			return -1;
		*slash = '/';
	}
	return mkdir(path, 0755) && errno != EEXIST ? -1 : 0;
}

static int share(int fd, const char *path)
{
	pe_auto_free char *target = strdup(path);
	char source[64];

	snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	return !target || make_path(target) || mount(source, target, NULL, MS_BIND, NULL) ? -1 : 0;
}

static const char *mount_own(const char *root)
{
	static const char *const empty[] = { "tmp", "var/tmp", "dev/shm" };
	pe_auto_free char *proc = pe_format("%s/proc", root);

	/* Bound, not mounted anew: that is allowed inside containers too. */
	if (!proc || mount("/proc", proc, NULL, MS_BIND | MS_REC, NULL))
		return "cannot mount /proc in the tree";
	for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++) {
		pe_auto_free char *path = pe_format("%s/%s", root, empty[i]);

		if (!path || make_path(path) ||
		    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
			return "cannot mount an empty /tmp in the tree";
	}
	return NULL;
}

const char *pe_tree_enter(const struct pe_tree *tree)
{
	size_t count = tree->shared.count;
	pe_auto_free int *fds = calloc(count + 1, sizeof(*fds));
	const char *what = NULL;

	if (!fds)
		return "no memory";
	if (unshare(CLONE_NEWNS))
		return "cannot make a mount namespace";
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return errno == EINVAL ? "our root directory is no mount point (a plain chroot: "
					 "bind-mount it on itself first), so mounts cannot be kept "
					 "from others"
				       : "cannot keep mounts from others";
	if (!tree->path)
		return NULL;
	/* After unshare: only what is mounted in our own namespace can be mounted again. */
	for (size_t i = 0; i < count; i++) {
		fds[i] = open(tree->shared.items[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fds[i] < 0)
			return "cannot open a directory that is shared with the tree";
	}
	what = mount_own(tree->path);
	if (what)
		return what;
	if (chroot(tree->path) || chdir("/"))
		return "cannot enter the tree";
	for (size_t i = 0; i < count; i++) {
		if (share(fds[i], tree->shared.items[i]))
			return "cannot mount a shared directory in the tree";
	}
	return NULL;
}
