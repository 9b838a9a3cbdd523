/*
 * A sandbox in 10 KB: connects twice like a runtime does, then does what the data connection says.
 * It ignores the end of its signal connection on purpose: what ends it is the server.
 */
#include <errno.h>
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
		if (write(data, buffer, (size_t) got) != got)
			return 14;
	}
	pause();
	return 0;
}
