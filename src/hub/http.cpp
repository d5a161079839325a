#include "hub/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <mutex>

#include "core/check.h"

namespace raedit::hub {
namespace {

constexpr int kMaxRedirects = 10;
constexpr int kPollMilliseconds = 50;
constexpr size_t kMaxErrorBody = size_t{64} << 10;
constexpr long kReceiveBuffer = 256 << 10;
constexpr const char* kProtocols = "http,https";

// Only what somebody asks for is kept, so that a server cannot fill the memory with headers.
constexpr std::array<std::string_view, 9> kKeptHeaders = {
    "x-repo-commit", "x-linked-etag", "x-linked-size",   "etag",          "content-length",
    "content-range", "x-error-code",  "x-error-message", "accept-ranges",
};

struct FreeList {
  void operator()(curl_slist* list) const { ::curl_slist_free_all(list); }
};
struct FreeEasy {
  void operator()(CURL* easy) const { ::curl_easy_cleanup(easy); }
};
struct FreeUrl {
  void operator()(CURLU* url) const { ::curl_url_cleanup(url); }
};
using HeaderList = std::unique_ptr<curl_slist, FreeList>;
using EasyHandle = std::unique_ptr<CURL, FreeEasy>;
using UrlHandle = std::unique_ptr<CURLU, FreeUrl>;

void require(bool worked) {
  RAEDIT_CHECK(worked, {.code = ErrorCode::internal, .what = "libcurl refused to be set up", .where = "http"});
}

void start_libcurl() {
  static std::once_flag once;
  std::call_once(once, [] { require(::curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK); });
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

std::string part_of(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (::curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
  std::string copy = text;
  ::curl_free(text);
  return copy;
}

// "https://host:443", or "" for what is no URL.
std::string origin_of(const std::string& text) {
  const UrlHandle url(::curl_url());
  if (url == nullptr || ::curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) return "";
  return lower(part_of(url.get(), CURLUPART_SCHEME) + "://" + part_of(url.get(), CURLUPART_HOST)) + ":" +
         part_of(url.get(), CURLUPART_PORT);
}

bool same_origin(const std::string& a, const std::string& b) {
  const std::string origin = origin_of(a);
  return !origin.empty() && origin == origin_of(b);
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool status_may_pass(int status) {
  constexpr std::array kPassing = {408, 429, 500, 502, 503, 504};
  return std::find(kPassing.begin(), kPassing.end(), status) != kPassing.end();
}

bool failure_may_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_WEIRD_SERVER_REPLY: return true;
    default: return false;
  }
}

// One request on its way; libcurl's callbacks get it as their last argument.
struct Transfer {
  const HttpRequest& request;
  HttpResponse response = {};
  CURL* easy = nullptr;
  std::exception_ptr thrown = {};
  bool begun = false;
  bool cut_short = false;  // by us: the body of an error is long enough
  size_t ignored = 0;

  void read_status() {
    long status = 0;
    ::curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    response.status = static_cast<int>(status);
  }

  bool take(const char* data, size_t bytes) {
    if (!begun) {
      read_status();
      begun = true;
      if (response.ok() && request.begin) request.begin(response);
    }
    if (response.ok()) {
      if (request.sink) request.sink(data, bytes);
      return true;
    }
    ignored += bytes;
    cut_short = ignored > kMaxErrorBody;
    return !cut_short;
  }
};

size_t on_body(char* data, size_t size, size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  try {
    return transfer.take(data, size * count) ? size * count : 0;
  } catch (...) {
    transfer.thrown = std::current_exception();
    return 0;
  }
}

void keep_header(HttpResponse& response, std::string_view line) {
  if (line.starts_with("HTTP/")) response.headers.clear();  // the block before was of an interim answer
  const size_t colon = line.find(':');
  if (colon == line.npos) return;
  std::string name = lower(std::string(line.substr(0, colon)));
  if (std::find(kKeptHeaders.begin(), kKeptHeaders.end(), name) == kKeptHeaders.end()) return;
  std::string_view value = line.substr(colon + 1);
  const size_t first = value.find_first_not_of(" \t\r\n");
  const size_t last = value.find_last_not_of(" \t\r\n");
  value = first == value.npos ? std::string_view() : value.substr(first, last - first + 1);
  response.headers[std::move(name)] = std::string(value);
}

size_t on_header(char* data, size_t size, size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  try {
    keep_header(transfer.response, std::string_view(data, size * count));
    return size * count;
  } catch (...) {
    transfer.thrown = std::current_exception();
    return 0;
  }
}

}  // namespace

struct HttpClient::Handles {
  EasyHandle easy;
  CURLM* multi;  // keeps connections open between requests

  Handles() : easy(::curl_easy_init()), multi(::curl_multi_init()) {}
  ~Handles() {
    easy.reset();
    ::curl_multi_cleanup(multi);
  }
};

HttpClient::HttpClient(HttpSettings settings) : settings_(std::move(settings)) {
  start_libcurl();
  handles_ = std::make_unique<Handles>();
  require(handles_->easy != nullptr && handles_->multi != nullptr);
}

HttpClient::~HttpClient() = default;

namespace {

template <class T>
void set(CURL* easy, CURLoption option, T value) {
  require(::curl_easy_setopt(easy, option, value) == CURLE_OK);
}

HeaderList headers_for(const HttpSettings& settings, const std::string& url) {
  HeaderList list;
  const auto add = [&](const std::string& line) {
    curl_slist* longer = ::curl_slist_append(list.get(), line.c_str());
    require(longer != nullptr);
    (void)list.release();
    list.reset(longer);
  };
  add("Accept-Encoding: identity");  // sizes and ranges are those of the file
  if (!settings.token.empty() && same_origin(url, settings.endpoint)) add("Authorization: Bearer " + settings.token);
  return list;
}

void set_up(Transfer& transfer, const HttpSettings& settings, const std::string& url, const HeaderList& headers) {
  CURL* easy = transfer.easy;
  ::curl_easy_reset(easy);
  set(easy, CURLOPT_URL, url.c_str());
  set(easy, CURLOPT_PROTOCOLS_STR, kProtocols);
  set(easy, CURLOPT_REDIR_PROTOCOLS_STR, kProtocols);
  set(easy, CURLOPT_FOLLOWLOCATION, 0L);
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(easy, CURLOPT_CONNECTTIMEOUT, settings.connect_seconds);
  set(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(easy, CURLOPT_LOW_SPEED_TIME, settings.stall_seconds);
  // Refused on a handle whose last request still resolves a name; the size it has will do.
  (void)::curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(easy, CURLOPT_USERAGENT, "raedit");
  set(easy, CURLOPT_HTTPHEADER, headers.get());
  set(easy, CURLOPT_WRITEFUNCTION, &on_body);
  set(easy, CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(easy, CURLOPT_HEADERFUNCTION, &on_header);
  set(easy, CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
  if (!settings.ca_bundle.empty()) set(easy, CURLOPT_CAINFO, settings.ca_bundle.c_str());
  if (transfer.request.head) set(easy, CURLOPT_NOBODY, 1L);
  // Not CURLOPT_RESUME_FROM, which makes an error of a server that sends everything instead.
  if (transfer.request.from > 0) set(easy, CURLOPT_RANGE, fmt::format("{}-", transfer.request.from).c_str());
}

// Takes the handle out of the multi handle again, also when a callback threw. The buffer for errors, which ends with
// the request, must not be written to afterwards.
class Running {
 public:
  Running(CURLM* multi, CURL* easy) : multi_(multi), easy_(easy) {
    require(::curl_multi_add_handle(multi_, easy_) == CURLM_OK);
  }
  ~Running() {
    ::curl_multi_remove_handle(multi_, easy_);
    ::curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, nullptr);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  CURLcode finish(const std::function<void()>& poll) {
    for (int running = 1;;) {
      require(::curl_multi_perform(multi_, &running) == CURLM_OK);
      if (running == 0) break;
      if (poll) poll();
      require(::curl_multi_poll(multi_, nullptr, 0, kPollMilliseconds, nullptr) == CURLM_OK);
    }
    int left = 0;
    while (const CURLMsg* message = ::curl_multi_info_read(multi_, &left))
      if (message->msg == CURLMSG_DONE && message->easy_handle == easy_) return message->data.result;
    return CURLE_RECV_ERROR;
  }

 private:
  CURLM* multi_;
  CURL* easy_;
};

}  // namespace

HttpResponse HttpClient::send_once(const HttpRequest& request, const std::string& url) {
  Transfer transfer{.request = request, .easy = handles_->easy.get()};
  transfer.response.url = url;
  const HeaderList headers = headers_for(settings_, url);
  set_up(transfer, settings_, url, headers);
  std::array<char, CURL_ERROR_SIZE> detail{};
  set(transfer.easy, CURLOPT_ERRORBUFFER, detail.data());
  const CURLcode code = Running(handles_->multi, transfer.easy).finish(settings_.poll);
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);

  HttpResponse& response = transfer.response;
  transfer.read_status();
  if (code != CURLE_OK && !transfer.cut_short) {
    response.failure = detail[0] != '\0' ? detail.data() : ::curl_easy_strerror(code);
    response.may_pass = failure_may_pass(code);
    response.unresolved = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY;
    return std::move(response);
  }
  response.may_pass = status_may_pass(response.status);
  if (!transfer.begun && response.ok() && !request.head && request.begin) request.begin(response);  // an empty body
  curl_off_t retry_after = 0;
  if (::curl_easy_getinfo(transfer.easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK)
    response.retry_after = static_cast<double>(retry_after);
  const char* location = nullptr;
  ::curl_easy_getinfo(transfer.easy, CURLINFO_REDIRECT_URL, &location);
  if (location != nullptr) response.location = location;
  return std::move(response);
}

// False, with the reason in `response`, for redirects that lead nowhere good.
bool HttpClient::may_follow(HttpResponse& response) const {
  const std::string to = lower(response.location);
  const bool is_safe =
      to.starts_with("https://") || (to.starts_with("http://") && !lower(response.url).starts_with("https:"));
  if (!is_safe) response.failure = fmt::format("a redirect to {} is not followed", without_query(response.location));
  return is_safe;
}

HttpResponse HttpClient::send(const HttpRequest& request) {
  std::string url = request.url;
  for (int hops = 0;; ++hops) {
    HttpResponse response = send_once(request, url);
    if (!response.failure.empty() || !is_redirect(response.status) || response.location.empty()) return response;
    if (!same_origin(response.location, response.url) && request.stop_at && request.stop_at(response)) return response;
    if (!may_follow(response)) return response;
    if (hops == kMaxRedirects) {
      response.failure = fmt::format("more than {} redirects", kMaxRedirects);
      return response;
    }
    url = response.location;
  }
}

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

std::string url_escape(std::string_view text, std::string_view keep) {
  std::string escaped;
  for (const char c : text) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                          std::string_view("-._~").find(c) != std::string_view::npos ||
                          keep.find(c) != std::string_view::npos;
    escaped += is_plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return escaped;
}

std::string without_query(const std::string& url) {
  return url.substr(0, url.find('?'));
}

}  // namespace raedit::hub
