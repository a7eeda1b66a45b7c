/* probe: says on one line of stdout, as JSON after a marker, what a process sees of the world it was started in.

   Bytes are written as the code points U+0000 to U+00FF, so that any value survives any console. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
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

static void status(void) {
	static const char *wanted[] = {"SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
		"NoNewPrivs", "Seccomp"};
	char line[256];
	FILE *file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		char *colon = strchr(line, ':');
		for (size_t i = 0; colon && i < sizeof wanted / sizeof *wanted; i++)
			if (strlen(wanted[i]) == (size_t)(colon - line) && !strncmp(line, wanted[i], colon - line))
				printf("\"%s\":\"%s\",", wanted[i], colon + 2);
	}
	if (file)
		fclose(file);
}

/* ---- stdio by name, as a shell (`>/dev/stdout`) and a logger (/var/log/x -> /dev/stderr) open it. Before anything is
   printed, since what is written here must not come in the middle of that. */

static const char *const names[] = {"/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "/proc/self/fd/1",
	"/proc/self/fd/2"};
#define NAMES (sizeof names / sizeof *names)
static int opened[NAMES];

static void open_by_name(void) {
	static const int ways[] = {O_WRONLY | O_CREAT | O_TRUNC, O_WRONLY | O_CREAT | O_APPEND};
	for (size_t i = 0; i < NAMES; i++)
		for (int way = 0; way < 2 && !opened[i]; way++) {
			int fd = open(names[i], ways[way] | O_CLOEXEC | O_NOCTTY, 0666);
			if (fd < 0 || (way && dprintf(fd, "BY-NAME:%s\n", names[i]) < 0))
				opened[i] = errno;
			if (fd >= 0)
				close(fd);
		}
}

static void by_name(void) {
	int in = open("/dev/stdin", O_RDONLY | O_CLOEXEC | O_NOCTTY);
	printf("\"by_name\":{\"/dev/stdin\":%d", in < 0 ? errno : 0);
	if (in >= 0)
		close(in);
	for (size_t i = 0; i < NAMES; i++)
		printf(",\"%s\":%d", names[i], opened[i]);
	struct winsize size = {0, 0, 0, 0};
	ioctl(1, TIOCGWINSZ, &size);
	printf("},\"window\":[%d,%d],\"stdio\":[", size.ws_row, size.ws_col);
	for (int fd = 0; fd < 3; fd++) {
		struct stat found;
		if (fstat(fd, &found))
			memset(&found, 0, sizeof found);
		printf("%s[%u,%u,%u]", fd ? "," : "", found.st_mode, found.st_uid, found.st_gid);
	}
	printf("],");
}

/* ---- the network */

static int bound(int type, int port) {
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	int failed = fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) || (type == SOCK_STREAM && listen(fd, 1));
	int error = failed ? errno : 0;
	if (fd >= 0)
		close(fd);
	return error;
}

/* An echo socket that needs no privilege. 0: an answer came; ETIMEDOUT: none did. */
static int ping(void) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.sequence = htons(1)}, answer = {.type = ICMP_ECHO};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP), error = 0;
	if (fd < 0)
		return errno;
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	if (sendto(fd, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to) < 0)
		error = errno;
	else if (poll(&readable, 1, 2000) != 1 || read(fd, &answer, sizeof answer) < 0 || answer.type != ICMP_ECHOREPLY)
		error = ETIMEDOUT;
	close(fd);
	return error;
}

static int raw_socket(void) {
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* What a resolver finds for a name in /etc/hosts: all addresses, in order. */
static void addresses(const char *key, const char *name) {
	char line[1024];
	FILE *file = fopen("/etc/hosts", "re");
	printf("\"%s\":[", key);
	for (int count = 0; file && fgets(line, sizeof line, file);) {
		line[strcspn(line, "#\n")] = 0;
		char *rest, *address = strtok_r(line, " \t", &rest), *word;
		while (address && (word = strtok_r(0, " \t", &rest)))
			if (!strcasecmp(word, name)) {
				if (count++)
					putchar(',');
				text(address);
				break;
			}
	}
	printf("],");
	if (file)
		fclose(file);
}

static void resolver(void) {
	char line[1024];
	FILE *file = fopen("/etc/resolv.conf", "re");
	int found = 0;
	while (file && fgets(line, sizeof line, file))
		found |= !strncmp(line, "nameserver ", 11);
	printf("\"name_server\":%d,", found);
	if (file)
		fclose(file);
}

static void network(void) {
	struct ifreq asked = {.ifr_name = "eth0"};
	char name[256] = "";
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	printf("\"address\":");
	text(ioctl(fd, SIOCGIFADDR, &asked) ? "" : inet_ntoa(((struct sockaddr_in *)&asked.ifr_addr)->sin_addr));
	close(fd);
	gethostname(name, sizeof name - 1);
	printf(",\"hostname\":");
	text(name);
	putchar(',');
	addresses("own_name", name);
	addresses("localhost", "localhost");
	printf("\"ports\":{\"80/tcp\":%d,\"443/tcp\":%d,\"53/udp\":%d},", bound(SOCK_STREAM, 80), bound(SOCK_STREAM, 443),
		bound(SOCK_DGRAM, 53));
	printf("\"ping\":{\"echo socket, and an answer\":%d,\"raw socket\":%d},", ping(), raw_socket());
	resolver();
}

/* ---- files */

static void first_line(const char *path) {
	char line[512] = "";
	FILE *file = fopen(path, "re");
	if (!file || !fgets(line, sizeof line, file))
		line[0] = 0;
	if (file)
		fclose(file);
	line[strcspn(line, "\n")] = 0;
	text(line);
}

static void first_lines(void) {
	static const char *const paths[] = {"/etc/hostname", "/proc/self/oom_score_adj", "/proc/self/setgroups",
		"/proc/sys/net/ipv4/ip_unprivileged_port_start",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/core/somaxconn",
		"/proc/sys/kernel/shmmax", "/proc/sys/kernel/shmall", "/proc/sys/kernel/msgmax", "/proc/sys/kernel/sem",
		"/proc/sys/fs/mqueue/msg_max", "/proc/sys/vm/max_map_count", "/proc/sys/vm/overcommit_memory",
		"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
	printf("\"lines\":{");
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		printf("%s\"%s\":", i ? "," : "", paths[i]);
		first_line(paths[i]);
	}
	printf("},");
}

static void file(const char *path) {
	struct stat found;
	char target[4096] = "";
	if (lstat(path, &found)) {
		printf("null");
		return;
	}
	ssize_t length = S_ISLNK(found.st_mode) ? readlink(path, target, sizeof target - 1) : 0;
	target[length < 0 ? 0 : length] = 0;
	printf("[%u,%u,%u,%u,%u,", found.st_mode, found.st_uid, found.st_gid, major(found.st_rdev), minor(found.st_rdev));
	text(target);
	putchar(']');
}

static void listing(const char *key, const char *path) {
	DIR *folder = opendir(path);
	struct dirent *entry;
	printf("\"%s\":{", key);
	for (int count = 0; folder && (entry = readdir(folder));) {
		char full[512];
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (count++)
			putchar(',');
		text(entry->d_name);
		putchar(':');
		snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
		file(full);
	}
	printf("},");
	if (folder)
		closedir(folder);
}

static void files(void) {
	static const char *const paths[] = {"/", "/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab",
		"/tmp", "/run"};
	printf("\"files\":{");
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		printf("%s\"%s\":", i ? "," : "", paths[i]);
		file(paths[i]);
	}
	printf("},");
	listing("dev", "/dev");
}

/* Where something is mounted: kind, flags, and KiB. */
static void mounts(void) {
	static const char *const paths[] = {"/", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/proc/sys", "/sys",
		"/sys/fs/cgroup", "/tmp", "/run"};
	printf("\"mounts\":{");
	for (size_t i = 0, count = 0; i < sizeof paths / sizeof *paths; i++) {
		struct statfs kind;
		struct statvfs flags;
		char line[4096];
		FILE *list = fopen("/proc/self/mountinfo", "re");
		int mounted = 0;
		while (list && fgets(line, sizeof line, list)) {
			char point[1024];
			if (sscanf(line, "%*s %*s %*s %*s %1023s", point) == 1 && !strcmp(point, paths[i]))
				mounted = 1;
		}
		if (list)
			fclose(list);
		if (!mounted || statfs(paths[i], &kind) || statvfs(paths[i], &flags))
			continue;
		printf("%s\"%s\":[%lu,%lu,%llu]", count++ ? "," : "", paths[i], (unsigned long)kind.f_type, flags.f_flag,
			(unsigned long long)flags.f_blocks * flags.f_frsize / 1024);
	}
	printf("},");
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

	open_by_name();
	printf("PARITY:{");
	descriptors(); /* before anything else stays open */
	status();
	by_name();
	network();
	first_lines();
	files();
	mounts();
	printf("\"nice\":%d,\"dumpable\":%d,\"securebits\":%d,", getpriority(PRIO_PROCESS, 0), prctl(PR_GET_DUMPABLE),
		prctl(PR_GET_SECUREBITS));
	printf("\"sysctl_writable\":%d,", !access("/proc/sys/net/ipv4/ip_forward", W_OK));
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
