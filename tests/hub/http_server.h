// A small HTTP/1.1 server on 127.0.0.1 that can misbehave: cut connections, stall, lie about lengths.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace raedit::test {

struct Request {
  std::string method;
  std::string target;                          // path and query
  std::map<std::string, std::string> headers;  // names in lower case

  std::string path() const { return target.substr(0, target.find('?')); }
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct Reply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
  bool has_length = true;                 // Content-Length
  std::optional<size_t> stop_after = {};  // so many bytes of the body are sent,
  bool stall = false;                     // and then the connection is closed, or held open
  bool drop = false;                      // closed without any answer
};

class HttpServer {
 public:
  using Handler = std::function<Reply(const Request&)>;
  explicit HttpServer(Handler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // What was asked so far, in the order of arrival.
  std::vector<Request> requests() const;
  size_t body_bytes_sent() const { return body_bytes_sent_; }

 private:
  void accept_all();
  void serve(int fd);
  void answer(int fd, const Request& request, const Reply& reply);
  void hold(int fd) const;

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<size_t> body_bytes_sent_ = 0;
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
  std::list<std::thread> connections_;
  std::thread acceptor_;
};

}  // namespace raedit::test
