/* probe: says on one line of stdout, as JSON after a marker, what a process sees of the world it was started in.

   Bytes are written as the code points U+0000 to U+00FF, so that any value survives any console. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void text(const char *bytes) {
	putchar('"');
	for (; *bytes; bytes++) {
		unsigned char byte = *bytes;
		if (byte < 0x20 || byte > 0x7e || byte == '"' || byte == '\\')
			printf("\\u%04x", byte);
		else
			putchar(byte);
	}
	putchar('"');
}

static void texts(const char *key, char **list) {
	printf("\"%s\":[", key);
	for (int i = 0; list[i]; i++) {
		if (i)
			putchar(',');
		text(list[i]);
	}
	printf("],");
}

static void link_target(const char *key, const char *path) {
	char target[4096];
	ssize_t length = readlink(path, target, sizeof target - 1);
	target[length < 0 ? 0 : length] = 0;
	printf("\"%s\":", key);
	text(target);
	putchar(',');
}

/* The descriptors this process was given, each with what it leads to. */
static void descriptors(void) {
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	printf("\"fds\":{");
	for (int count = 0; folder && (entry = readdir(folder));) {
		char path[64];
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(folder))
			continue;
		if (count++)
			putchar(',');
		snprintf(path, sizeof path, "/proc/self/fd/%.20s", entry->d_name);
		char target[4096];
		ssize_t length = readlink(path, target, sizeof target - 1);
		target[length < 0 ? 0 : length] = 0;
		printf("\"%s\":", entry->d_name);
		text(target);
	}
	printf("},");
	if (folder)
		closedir(folder);
}

static void signals(void) {
	char line[256];
	FILE *status = fopen("/proc/self/status", "re");
	while (status && fgets(line, sizeof line, status)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "SigBlk:\t", 8) || !strncmp(line, "SigIgn:\t", 8))
			printf("\"%.6s\":\"%s\",", line, line + 8);
	}
	if (status)
		fclose(status);
}

static void limit(const char *key, int which) {
	struct rlimit found = {0, 0};
	getrlimit(which, &found);
	printf("\"%s\":[%lld,%lld],", key, (long long)found.rlim_cur, (long long)found.rlim_max);
}

int main(int count, char **arguments) {
	uid_t uid, euid, suid;
	gid_t gid, egid, sgid, groups[1024];
	char cwd[4096], byte;
	struct stat here;
	(void)count;

	printf("PARITY:{");
	descriptors(); /* first, before anything else is opened */
	signals();
	texts("argv", arguments);
	texts("environ", environ);
	link_target("program", "/proc/self/exe");
	getresuid(&uid, &euid, &suid);
	getresgid(&gid, &egid, &sgid);
	printf("\"uid\":[%u,%u,%u],\"gid\":[%u,%u,%u],\"groups\":[", uid, euid, suid, gid, egid, sgid);
	int number = getgroups(1024, groups);
	for (int i = 0; i < number; i++)
		printf(i ? ",%u" : "%u", groups[i]);
	printf("],\"cwd\":");
	text(getcwd(cwd, sizeof cwd) ? cwd : "");
	if (!stat(".", &here))
		printf(",\"cwd_owner\":[%u,%u,%u]", here.st_uid, here.st_gid, here.st_mode & 07777);
	mode_t mask = umask(022);
	printf(",\"umask\":%u,", mask);
	limit("nofile", RLIMIT_NOFILE);
	limit("nproc", RLIMIT_NPROC);
	limit("core", RLIMIT_CORE);
	limit("stack", RLIMIT_STACK);
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	printf("\"terminals\":[%d,%d,%d],\"has_terminal\":%d,", isatty(0), isatty(1), isatty(2), tty >= 0);
	printf("\"pid\":%d,\"pgid\":%d,\"sid\":%d,", getpid(), getpgrp(), getsid(0));
	/* 0 is the end of the file; a terminal on which nobody types would keep us waiting. */
	struct pollfd input = {.fd = 0, .events = POLLIN};
	printf("\"stdin_read\":%zd}\n", poll(&input, 1, 200) == 1 ? read(0, &byte, 1) : -2);
	return 0;
}
