// HTTP through libcurl; the only file that knows it is http.cpp. One request at a time, cancellable at any moment.
//
// Redirects are followed here and not by libcurl, so that it can be seen that the token goes to the hub and to nobody
// else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace raedit::hub {

struct HttpResponse {
  int status = 0;                              // 0: nobody answered
  std::string url;                             // that answered, after redirects
  std::string location;                        // of a redirect, absolute
  std::map<std::string, std::string> headers;  // names in lower case
  double retry_after = 0;                      // seconds, 0 when not given
  std::string failure;                         // why there is no whole answer; empty when there is one
  bool may_pass = false;                       // the failure or the status is of the kind that goes away
  bool unresolved = false;                     // there is no such host, or no network to ask for it

  bool ok() const { return failure.empty() && status >= 200 && status < 300; }
  std::string header(const std::string& name) const;  // "" when there is none
};

struct HttpRequest {
  std::string url;
  bool head = false;
  uint64_t from = 0;  // ask for the bytes from here on; whether that is what comes, `begin` can see
  // Before the body of an answer with 2xx, and only then; the body itself; both may throw.
  std::function<void(const HttpResponse&)> begin = {};
  std::function<void(const char*, size_t)> sink = {};
  // Asked about a redirect to another host: true ends the request with the redirect as its answer.
  std::function<bool(const HttpResponse&)> stop_at = {};
};

struct HttpSettings {
  std::string endpoint;  // whoever has its scheme, host and port gets the token
  std::string token;
  std::string ca_bundle;  // "": libcurl's own
  long connect_seconds = 10;
  long stall_seconds = 30;
  std::function<void()> poll = {};  // called at least every 50 ms or so; throws to cancel
};

class HttpClient {
 public:
  explicit HttpClient(HttpSettings settings);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Network failures are in the response; throws what the callbacks throw.
  HttpResponse send(const HttpRequest& request);

 private:
  struct Handles;
  HttpResponse send_once(const HttpRequest& request, const std::string& url);
  bool may_follow(HttpResponse& response) const;

  HttpSettings settings_;
  std::unique_ptr<Handles> handles_;
};

// %XX for all but letters, digits and -._~, and the characters of `keep`.
std::string url_escape(std::string_view text, std::string_view keep = "");
// For messages: what follows '?' is often a signature.
std::string without_query(const std::string& url);

}  // namespace raedit::hub
