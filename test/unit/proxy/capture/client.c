/* What programs do with sockets, a word each; prints what they see. Errors are printed as errno numbers. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char **word;
static struct sockaddr_storage to;

static socklen_t address(const char *host, const char *port) {
  struct sockaddr_in *v4 = (void *)&to;
  struct sockaddr_in6 *v6 = (void *)&to;
  memset(&to, 0, sizeof to);
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(atoi(port));
    return sizeof *v4;
  }
  inet_pton(AF_INET6, host, &v6->sin6_addr);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(atoi(port));
  return sizeof *v6;
}

static void printName(const char *what, struct sockaddr_storage *name) {
  char text[64];
  int v4 = name->ss_family == AF_INET;
  void *bytes = v4 ? (void *)&((struct sockaddr_in *)name)->sin_addr : (void *)&((struct sockaddr_in6 *)name)->sin6_addr;
  inet_ntop(name->ss_family, bytes, text, sizeof text);
  printf("%s %s %d\n", what, text, ntohs(((struct sockaddr_in *)name)->sin_port));
}

static void peer(int s) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  if (getpeername(s, (void *)&name, &length)) printf("peer errno %d\n", errno);
  else printName("peer", &name);
}

static int result(int r) {
  if (r) printf("errno %d\n", errno);
  return r;
}

static void exchange(int s) {
  char text[65536] = {0};
  if (send(s, "ping", 4, MSG_NOSIGNAL) != 4) { printf("send errno %d\n", errno); return; }
  ssize_t n = recv(s, text, sizeof text - 1, 0);
  if (n < 0) printf("recv errno %d\n", errno);
  else printf("got %s\n", text);
}

static void *one(void *unused) {
  int s = socket(to.ss_family, SOCK_STREAM, 0);
  char byte[4];
  long bad = connect(s, (void *)&to, sizeof(struct sockaddr_in)) != 0 || send(s, "ping", 4, 0) != 4 || recv(s, byte, 4, 0) != 4;
  close(s);
  return (void *)bad;
}

/* The captor, which has started this, may end its dial from now on. */
static void ring(int signal) { write(1, "alarm\n", 6); kill(getppid(), SIGUSR2); }

/* Waits until the dial is under way: then the socket, which another process connects, has an end of its own. */
static void awaitDial(int s) {
  struct sockaddr_in own = {0};
  for (;; usleep(1000)) {
    socklen_t size = sizeof own;
    getsockname(s, (void *)&own, &size);
    if (own.sin_port) return;
  }
}

static int name(char *question, const char *host) {
  memcpy(question, "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", 12);
  char *at = question + 12;
  for (const char *dot; *host; host = *dot ? dot + 1 : dot) {
    dot = strchrnul(host, '.');
    *at++ = dot - host;
    memcpy(at, host, dot - host);
    at += dot - host;
  }
  memcpy(at, "\0\0\1\0\1", 5);
  return at + 5 - question;
}

int main(int count, char **words) {
  const char *verb = words[1];
  word = words + 2;
  setvbuf(stdout, NULL, _IONBF, 0);
  socklen_t length = count > 3 ? address(word[0], word[1]) : 0;
  if (!strcmp(verb, "tcp")) {
    int s = socket(to.ss_family, SOCK_STREAM, 0);
    if (result(connect(s, (void *)&to, length))) {
      if (count < 6) return 0;
      length = address(word[2], word[3]); /* the same socket once more */
      if (result(connect(s, (void *)&to, length))) return 0;
    }
    peer(s);
    exchange(s);
    if (connect(s, (void *)&to, length)) printf("again errno %d\n", errno);
  } else if (!strcmp(verb, "nonblocking")) {
    int s = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), error;
    socklen_t size = sizeof error;
    if (connect(s, (void *)&to, length) && errno != EINPROGRESS) return result(-1), 0;
    struct pollfd p = {s, POLLOUT, 0};
    poll(&p, 1, -1);
    getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size);
    printf("connected %d\n", error);
    fcntl(s, F_SETFL, 0);
    exchange(s);
  } else if (!strcmp(verb, "udp")) {
    int s = socket(to.ss_family, SOCK_DGRAM, 0);
    if (result(connect(s, (void *)&to, length))) return 0;
    peer(s);
    exchange(s);
  } else if (!strncmp(verb, "dns", 3)) { /* as musl does: no connect, and a look at who answers */
    char question[300], answer[2000];
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    int s = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), bytes = name(question, word[2]);
    struct sockaddr_storage any = {.ss_family = to.ss_family};
    bind(s, (void *)&any, length);
    struct iovec part = {question, bytes};
    struct mmsghdr m = {{&to, length, &part, 1}};
    int r = !strcmp(verb, "dns-sendmsg") ? sendmsg(s, &m.msg_hdr, 0)
          : !strcmp(verb, "dns-sendmmsg") ? sendmmsg(s, &m, 1, 0)
          : sendto(s, question, bytes, MSG_NOSIGNAL, (void *)&to, length);
    if (r < 0) return result(-1), 0;
    struct pollfd p = {s, POLLIN, 0};
    if (poll(&p, 1, 5000) != 1) return printf("no answer\n"), 0;
    ssize_t n = recvfrom(s, answer, sizeof answer, 0, (void *)&from, &size);
    printName("from", &from);
    printf("rcode %d, %zd bytes, flags %x, fd flags %d\n", answer[3] & 15, n, answer[2] & 0xff, fcntl(s, F_GETFD));
    if (n > bytes + 12) printf("address %d.%d.%d.%d\n", answer[n - 4] & 255, answer[n - 3] & 255, answer[n - 2] & 255, answer[n - 1] & 255);
  } else if (!strcmp(verb, "unix")) {
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    strncpy(path.sun_path, word[0], sizeof path.sun_path - 1);
    result(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&path, sizeof path));
  } else if (!strcmp(verb, "dup")) {
    int s = socket(to.ss_family, SOCK_STREAM, 0);
    if (result(connect(s, (void *)&to, length))) return 0;
    int copy = dup2(s, 77);
    close(s);
    if (fork() == 0) { peer(copy); exchange(copy); _exit(0); }
    wait(NULL);
    peer(copy);
  } else if (!strcmp(verb, "alarm")) { /* a third word: the kernel is to make the call again */
    struct sigaction action = {.sa_handler = ring, .sa_flags = count > 4 ? SA_RESTART : 0};
    sigaction(SIGALRM, &action, NULL);
    int s = socket(to.ss_family, SOCK_STREAM, 0);
    if (fork() == 0) { awaitDial(s); kill(getppid(), SIGALRM); _exit(0); }
    if (result(connect(s, (void *)&to, length))) return 0;
    peer(s);
    exchange(s);
  } else if (!strcmp(verb, "killed")) {
    int s = socket(to.ss_family, SOCK_STREAM, 0), status;
    pid_t caller = fork();
    if (caller == 0) { connect(s, (void *)&to, length); _exit(0); }
    awaitDial(s);
    kill(caller, SIGKILL);
    close(s);
    waitpid(caller, &status, 0);
    printf("signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  } else if (!strcmp(verb, "timeout")) {
    int s = socket(to.ss_family, SOCK_STREAM, 0);
    struct timeval timeout = {0, 50000};
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    result(connect(s, (void *)&to, length));
  } else if (!strcmp(verb, "many")) {
    int processes = atoi(word[2]), threads = atoi(word[3]);
    for (int i = 0; i < processes; i++) {
      if (fork()) continue;
      pthread_t thread[threads];
      long bad = 0;
      void *failed;
      for (int j = 0; j < threads; j++) pthread_create(&thread[j], NULL, one, NULL);
      for (int j = 0; j < threads; j++) { pthread_join(thread[j], &failed); bad += (long)failed; }
      _exit(bad);
    }
    int status, bad = 0;
    while (wait(&status) > 0) bad += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
    printf("lost %d\n", bad);
  } else if (!strcmp(verb, "io_uring")) {
    if (syscall(SYS_io_uring_setup, 1, NULL) < 0) printf("errno %d\n", errno);
  }
  return 0;
}
