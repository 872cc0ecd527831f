// Prints a page: static-tcp HOST PORT. Linked with musl statically: a resolver of its own, and no library to preload.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
  char request[512], page[4096];
  int error, fd = -1;
  ssize_t bytes;

  if (argc != 3) return 2;
  error = getaddrinfo(argv[1], argv[2], &hints, &found);
  if (error) {
    fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
    return 1;
  }
  for (each = found; each; each = each->ai_next) {
    fd = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
    if (fd >= 0 && connect(fd, each->ai_addr, each->ai_addrlen) == 0) break;
    perror("connect");
    if (fd >= 0) close(fd);
    fd = -1;
  }
  if (fd < 0) return 1;
  snprintf(request, sizeof request, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", argv[1]);
  if (write(fd, request, strlen(request)) < 0) return 1;
  while ((bytes = read(fd, page, sizeof page)) > 0) fwrite(page, 1, bytes, stdout);
  return 0;
}
