/*
 * The floor under the origin bench: what the kernel alone charges for an answer.
 *
 * One epoll loop, one object. Whatever the request says, once its empty line has come the same head and
 * the same file go out: small bodies from memory with the head, larger ones by sendfile behind MSG_MORE.
 * It routes, checks, counts and limits nothing; a server that does cannot be cheaper, only close.
 *
 *   floor PORT HEAD-FILE BODY-FILE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Up to here copying the body is cheaper than a second system call. */
#define COPIED_MAX (8 << 10)

struct connection {
  int fd;
  size_t matched;   /* characters of CRLFCRLF seen so far */
  size_t owed;      /* requests read and not yet answered */
  size_t head_sent; /* of the answer under way */
  off_t body_sent;
};

static char head[65536 + COPIED_MAX]; /* the head, followed by a copied body */
static size_t head_length;
static int body;
static off_t body_length; /* what is left for sendfile: 0 when copied */

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* Takes what has come and counts the requests in it. 1: all taken, 0: the peer left. */
static int take(struct connection *c) {
  static const char end[4] = "\r\n\r\n";
  char buffer[4096];
  for (;;) {
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return 0;
    for (ssize_t i = 0; i < n; i++) {
      c->matched = buffer[i] == end[c->matched] ? c->matched + 1 : buffer[i] == '\r';
      if (c->matched == sizeof end) c->owed++, c->matched = 0;
    }
    if ((size_t)n < sizeof buffer) return 1; /* edge-triggered: more will wake us again */
  }
}

/* Sends until everything owed is sent or the socket is full. 1: fine, 0: the connection is broken. */
static int answer(struct connection *c) {
  while (c->owed) {
    while (c->head_sent < head_length) {
      ssize_t n = send(c->fd, head + c->head_sent, head_length - c->head_sent,
                       MSG_NOSIGNAL | (body_length ? MSG_MORE : 0));
      if (n < 0) return errno == EAGAIN;
      c->head_sent += (size_t)n;
    }
    while (c->body_sent < body_length) {
      ssize_t n = sendfile(c->fd, body, &c->body_sent, (size_t)(body_length - c->body_sent));
      if (n < 0) return errno == EAGAIN;
      if (n == 0) return 0;
    }
    c->owed--, c->head_sent = 0, c->body_sent = 0;
  }
  return 1;
}

int main(int count, char **argument) {
  if (count != 4) return fprintf(stderr, "usage: floor PORT HEAD-FILE BODY-FILE\n"), 2;

  signal(SIGPIPE, SIG_IGN); /* sendfile has no MSG_NOSIGNAL */
  int file = open(argument[2], O_RDONLY);
  if (file < 0) die(argument[2]);
  ssize_t n = read(file, head, 65536);
  if (n <= 0) die(argument[2]);
  head_length = (size_t)n;
  body = open(argument[3], O_RDONLY);
  struct stat status;
  if (body < 0 || fstat(body, &status)) die(argument[3]);
  body_length = status.st_size;
  if (body_length <= COPIED_MAX) {
    if (read(body, head + head_length, COPIED_MAX) != body_length) die(argument[3]);
    head_length += (size_t)body_length;
    body_length = 0;
  }

  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argument[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) die("listen");

  int ready = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
  epoll_ctl(ready, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int woken = epoll_wait(ready, events, 256, -1);
    for (int i = 0; i < woken; i++) {
      struct connection *c = events[i].data.ptr;
      if (c) {
        if (take(c) && answer(c)) continue;
        close(c->fd);
        free(c);
        continue;
      }
      int fd;
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event);
      }
    }
  }
}
