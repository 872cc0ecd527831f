/*
 * Blocking TCP connects, as a plain program makes them: connect(2) alone is timed, without an event loop around it.
 *
 *   connects own TIMES                          to a listener of its own, on loopback
 *   connects time HOST PORT DOOR TIMES          to an IPv4 address; DOOR: by the SOCKS5 door at this port of loopback, 0: as it is
 *   connects crowd HOST PORT DOOR TIMES PROCESSES
 *                                               so many at once, in threads of so many processes, each to be answered with its own byte
 *
 * Prints {"p50Us", "p99Us"}, or {"answered"} of a crowd.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the last connection leaves to do must not be in the next one's way. */
static const struct timespec PAUSE = {0, 1000000};
/* Of a crowd: who is not answered within it is lost. */
static const struct timeval PATIENCE = {20, 0};
static const unsigned MOST_SECONDS = 60;

static struct sockaddr_in target;
static unsigned short door;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in address(const char *host, int port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, host, &at.sin_addr) != 1) fail(host);
  return at;
}

static int new_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  return fd;
}

static int connect_to(int fd, const struct sockaddr_in *at) { return connect(fd, (const struct sockaddr *)at, sizeof *at); }

static int receive(int fd, void *into, size_t bytes) { return recv(fd, into, bytes, MSG_WAITALL) == (ssize_t)bytes ? 0 : -1; }

/* RFC 1928: greeting, CONNECT with an IPv4 address, and the answers to both. */
static int handshake(int fd) {
  unsigned char request[10] = {5, 1, 0, 1}, answer[10];
  memcpy(request + 4, &target.sin_addr, 4);
  memcpy(request + 8, &target.sin_port, 2);
  if (send(fd, "\5\1", 3, 0) != 3 || receive(fd, answer, 2) < 0) return -1;
  if (send(fd, request, sizeof request, 0) != sizeof request || receive(fd, answer, sizeof answer) < 0) return -1;
  if (answer[1] == 0) return 0;
  errno = ECONNREFUSED;
  return -1;
}

static int reach(int fd) {
  if (door == 0) return connect_to(fd, &target);
  struct sockaddr_in at = address("127.0.0.1", door);
  return connect_to(fd, &at) < 0 ? -1 : handshake(fd);
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* `listener`: accepts each, or -1. A tenth more come first as warm-up. */
static void time_connects(int times, int listener) {
  double *us = calloc(times, sizeof *us);
  if (!us || times < 1) fail("connects");
  for (int i = -(times + 9) / 10; i < times; i++) {
    int fd = new_socket();
    double started = now_us();
    if (reach(fd) < 0) fail("connect");
    if (i >= 0) us[i] = now_us() - started;
    if (listener >= 0) close(accept(listener, NULL, NULL));
    close(fd);
    nanosleep(&PAUSE, NULL);
  }
  qsort(us, times, sizeof *us, ascending);
  printf("{\"p50Us\":%.1f,\"p99Us\":%.1f}\n", us[(times * 50 + 99) / 100 - 1], us[(times * 99 + 99) / 100 - 1]);
}

static void time_own(int times) {
  target = address("127.0.0.1", 0);
  socklen_t length = sizeof target;
  int listener = new_socket();
  if (bind(listener, (struct sockaddr *)&target, length) < 0 || listen(listener, 8) < 0) fail("listen");
  if (getsockname(listener, (struct sockaddr *)&target, &length) < 0) fail("getsockname");
  time_connects(times, listener);
}

static struct {
  pthread_barrier_t together;
  atomic_int answered;
} *crowd;

static void *one_of_crowd(void *unused) {
  int fd = new_socket();
  char byte;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &PATIENCE, sizeof PATIENCE);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &PATIENCE, sizeof PATIENCE);
  pthread_barrier_wait(&crowd->together);
  if (reach(fd) == 0 && send(fd, "x", 1, MSG_NOSIGNAL) == 1 && receive(fd, &byte, 1) == 0 && byte == 'x')
    atomic_fetch_add(&crowd->answered, 1);
  /* All stay open until the last one is. */
  pthread_barrier_wait(&crowd->together);
  close(fd);
  return unused;
}

static void run_crowd(int times, int processes) {
  pthread_barrierattr_t shared;
  pthread_barrierattr_init(&shared);
  pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  crowd = mmap(NULL, sizeof *crowd, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (crowd == MAP_FAILED) fail("mmap");
  pthread_barrier_init(&crowd->together, &shared, times);
  for (int i = 0; i < processes; i++) {
    int threads = times / processes + (i < times % processes);
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child > 0) continue;
    alarm(MOST_SECONDS);
    pthread_t thread[threads];
    for (int j = 0; j < threads; j++)
      if (pthread_create(&thread[j], NULL, one_of_crowd, NULL) != 0) fail("pthread_create");
    for (int j = 0; j < threads; j++) pthread_join(thread[j], NULL);
    _exit(0);
  }
  while (wait(NULL) > 0) {}
  printf("{\"answered\":%d}\n", atomic_load(&crowd->answered));
}

int main(int count, char **words) {
  if (count == 3 && strcmp(words[1], "own") == 0) {
    time_own(atoi(words[2]));
    return 0;
  }
  if (count < 6) return 2;
  target = address(words[2], atoi(words[3]));
  door = atoi(words[4]);
  if (strcmp(words[1], "time") == 0 && count == 6) time_connects(atoi(words[5]), -1);
  else if (strcmp(words[1], "crowd") == 0 && count == 7) run_crowd(atoi(words[5]), atoi(words[6]));
  else return 2;
  return 0;
}
