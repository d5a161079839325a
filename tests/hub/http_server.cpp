#include "hub/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <stdexcept>

namespace raedit::test {
namespace {

constexpr int kTickMilliseconds = 20;

void check(bool worked, const char* what) {
  if (!worked) throw std::runtime_error(what);
}

// False when the client is gone.
bool send_all(int fd, const char* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t done = ::send(fd, data, bytes, MSG_NOSIGNAL);
    if (done <= 0) return false;
    data += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

Request parse(const std::string& head) {
  Request request;
  std::istringstream lines(head);
  std::string line;
  std::getline(lines, line);
  std::istringstream(line) >> request.method >> request.target;
  while (std::getline(lines, line) && line != "\r") {
    const size_t colon = line.find(": ");
    if (colon == line.npos) continue;
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    request.headers[name] = line.substr(colon + 2, line.find('\r') - colon - 2);
  }
  return request;
}

}  // namespace

HttpServer::HttpServer(Handler handler) : handler_(std::move(handler)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(listener_ >= 0, "socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  check(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  check(::listen(listener_, 64) == 0, "listen");
  check(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "getsockname");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_all(); });
}

HttpServer::~HttpServer() {
  stopping_ = true;
  acceptor_.join();
  for (std::thread& connection : connections_) connection.join();
  ::close(listener_);
}

std::vector<Request> HttpServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void HttpServer::accept_all() {
  while (!stopping_) {
    pollfd ready{listener_, POLLIN, 0};
    if (::poll(&ready, 1, kTickMilliseconds) <= 0) continue;
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    const timeval timeout{.tv_sec = 5, .tv_usec = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    connections_.emplace_back([this, fd] { serve(fd); });
  }
}

// One request a connection: what is not closed in time holds nobody up.
void HttpServer::serve(int fd) {
  std::string head;
  std::array<char, 4096> buffer{};
  while (head.find("\r\n\r\n") == head.npos && !stopping_) {
    pollfd ready{fd, POLLIN, 0};
    if (::poll(&ready, 1, kTickMilliseconds) <= 0) continue;
    const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got <= 0) break;
    head.append(buffer.data(), static_cast<size_t>(got));
  }
  if (head.find("\r\n\r\n") != head.npos) {
    const Request request = parse(head);
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    answer(fd, request, handler_(request));
  }
  ::close(fd);
}

void HttpServer::answer(int fd, const Request& request, const Reply& reply) {
  if (reply.drop) return;
  std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " Whatever\r\nConnection: close\r\n";
  for (const auto& [name, value] : reply.headers) head += name + ": " + value + "\r\n";
  if (reply.has_length) head += "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
  head += "\r\n";
  if (!send_all(fd, head.data(), head.size())) return;
  if (request.method != "HEAD") {
    const size_t bytes = std::min(reply.stop_after.value_or(reply.body.size()), reply.body.size());
    if (!send_all(fd, reply.body.data(), bytes)) return;
    body_bytes_sent_ += bytes;
  }
  if (reply.stall) hold(fd);
  // A close with unread bytes would be a reset, which may overtake what was sent.
  ::shutdown(fd, SHUT_WR);
}

void HttpServer::hold(int fd) const {
  std::array<char, 64> buffer{};
  while (!stopping_) {
    pollfd ready{fd, POLLIN, 0};
    if (::poll(&ready, 1, kTickMilliseconds) > 0 && ::recv(fd, buffer.data(), buffer.size(), 0) <= 0) return;
  }
}

}  // namespace raedit::test
