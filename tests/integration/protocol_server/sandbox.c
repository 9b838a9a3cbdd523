/*
 * A sandbox in 10 KB: connects twice like a runtime does, then does what the data connection says.
 * It ignores the end of its signal connection on purpose: what ends it is the server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int
connect_once(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = getenv("PLC_SOCKET");
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (path == NULL || strlen(path) >= sizeof(address.sun_path))
		exit(10);
	strcpy(address.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
	{
		fprintf(stderr, "connect %s: %s\n", path, strerror(errno));
		exit(11);
	}
	return fd;
}

static void
eat_memory(void)
{
	for (;;)
	{
		char	   *piece = malloc(1 << 20);

		if (piece == NULL)
			exit(12);
		memset(piece, 1, 1 << 20);
	}
}

/* What became of an attempt to reach somebody, for instance "0" or "111". */
static size_t
try_tcp(const char *where, char *answer, size_t room)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	char		host[64];
	int			port;
	int			fd = socket(AF_INET, SOCK_STREAM, 0);
	int			error = 0;

	if (sscanf(where, "%63s %d", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
		return 0;
	address.sin_port = htons((uint16_t) port);
	if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	return (size_t) snprintf(answer, room, "%d", error);
}

/* Touches some MiB and keeps them. */
static void
eat_some(int megabytes)
{
	for (int i = 0; i < megabytes; i++)
	{
		char	   *piece = malloc(1 << 20);

		if (piece == NULL)
			exit(12);
		memset(piece, 1, 1 << 20);
	}
}

/* Writes some MiB of lines to standard output. */
static void
flood(int megabytes)
{
	char		line[1024];

	memset(line, 'x', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	for (int i = 0; i < megabytes * 1024; i++)
		if (write(STDOUT_FILENO, line, sizeof(line)) < 0)
			exit(15);
}

int
main(int argc, char **argv)
{
	char		buffer[4096];
	ssize_t		got;
	int			data;

	if (argc > 1 && strcmp(argv[1], "early") == 0)
	{
		fprintf(stderr, "numpy is not what it was\n");
		return 7;
	}
	if (argc > 1 && strcmp(argv[1], "mute") == 0)
	{
		pause();
		return 0;
	}
	data = connect_once();
	if (write(connect_once(), "s", 1) != 1)
		return 13;
	while ((got = read(data, buffer, sizeof(buffer))) > 0)
	{
		if (got == 3 && memcmp(buffer, "oom", 3) == 0)
			eat_memory();
		if (got == 5 && memcmp(buffer, "exit3", 5) == 0)
			return 3;
		buffer[got < (ssize_t) sizeof(buffer) ? got : got - 1] = '\0';
		if (strncmp(buffer, "tcp ", 4) == 0)
			got = (ssize_t) try_tcp(buffer + 4, buffer, sizeof(buffer));
		else if (strncmp(buffer, "eat ", 4) == 0)
			eat_some(atoi(buffer + 4));
		else if (strncmp(buffer, "flood ", 6) == 0)
			flood(atoi(buffer + 6));
		if (write(data, buffer, (size_t) got) != got)
			return 14;
	}
	pause();
	return 0;
}
