#include "hub/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"

namespace raedit::hub {
namespace {

constexpr size_t kMaxListingBytes = size_t{64} << 20;
constexpr double kMaxPauseSeconds = 30;
constexpr double kMaxRetryAfterSeconds = 60;

// What strangers send is shown, but not all of it, and not what moves the cursor.
std::string shown(std::string text) {
  constexpr size_t kMaxShown = 200;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text.size() <= kMaxShown ? text : text.substr(0, kMaxShown) + "...";
}

std::string answer_text(const HttpResponse& response) {
  const std::string message = shown(response.header("x-error-message"));
  return fmt::format("HTTP {} from {}{}{}", response.status, without_query(response.url), message.empty() ? "" : ": ",
                     message);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  RAEDIT_CHECK(object.is_object() && object.contains(key), {.code = ErrorCode::format,
                                                            .what = fmt::format("the hub's answer has no '{}'", key),
                                                            .where = where,
                                                            .hint = "is HF_ENDPOINT the address of a hub?"});
  return object.at(key);
}

std::string text_member(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  RAEDIT_CHECK(
      value.is_string(),
      {.code = ErrorCode::format, .what = fmt::format("'{}' in the hub's answer is not a text", key), .where = where});
  return value.get<std::string>();
}

}  // namespace

bool Retry::again(double retry_after) {
  if (used_ >= settings_->retries) return false;
  const double growing = std::min(std::ldexp(settings_->first_pause_seconds, std::min(used_, 20)), kMaxPauseSeconds);
  ++used_;
  progress_->sleep(std::max(growing, std::min(retry_after, kMaxRetryAfterSeconds)));
  return true;
}

HubClient::HubClient(const Settings& settings, ProgressMeter& progress)
    : settings_(settings),
      progress_(progress),
      http_({.endpoint = settings.endpoint,
             .token = settings.token,
             .ca_bundle = settings.ca_bundle,
             .stall_seconds = settings.stall_seconds,
             .poll = [&progress] { progress.poll(); }}) {}

HttpResponse HubClient::ask(const HttpRequest& request, int& tries) {
  for (Retry retry(settings_, progress_);;) {
    HttpResponse response = http_.send(request);
    tries = retry.tries();
    reached_ = reached_ || !response.unresolved;
    if (!reached_) return response;  // a misspelt host or no network at all: waiting would only keep the user waiting
    if (!response.may_pass || !retry.again(response.retry_after)) return response;
  }
}

HttpRequest HubClient::list_request(const ModelName& name, std::string& body) const {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}", settings_.endpoint, url_escape(name.repo, "/"),
                                      url_escape(name.revision));
  const auto take = [&body, url](const char* data, size_t bytes) {
    RAEDIT_CHECK(body.size() + bytes <= kMaxListingBytes, {.code = ErrorCode::format,
                                                           .what = "the hub's answer is too long",
                                                           .where = url,
                                                           .expected = "at most 64 MiB"});
    body.append(data, bytes);
  };
  return {.url = url, .begin = [&body](const HttpResponse&) { body.clear(); }, .sink = take};
}

RepoListing HubClient::read_listing(const HttpResponse& response, const ModelName& name,
                                    const std::string& body) const {
  const std::string where = without_query(response.url);
  const Json answer = parse_json(body, where);
  RepoListing listing;
  listing.commit = text_member(answer, "sha", where);
  RAEDIT_CHECK(is_commit(listing.commit), {.code = ErrorCode::format,
                                           .what = "the hub names a commit that is none",
                                           .where = where,
                                           .found = shown(listing.commit),
                                           .expected = "40 hex digits"});
  RAEDIT_CHECK(!is_commit(name.revision) || name.revision == listing.commit,
               {.code = ErrorCode::format,
                .what = "the hub answers with another commit",
                .where = where,
                .found = listing.commit,
                .expected = name.revision});
  const Json& siblings = member(answer, "siblings", where);
  RAEDIT_CHECK(siblings.is_array(),
               {.code = ErrorCode::format, .what = "the hub's list of files is no list", .where = where});
  for (const Json& sibling : siblings) {
    std::string path = text_member(sibling, "rfilename", where);
    RAEDIT_CHECK(is_safe_path(path), {.code = ErrorCode::format,
                                      .what = "the hub lists a file whose name leads out of its folder",
                                      .where = name.text(),
                                      .found = shown(path),
                                      .hint = "nothing of this repository was downloaded"});
    listing.files.push_back(std::move(path));
  }
  std::sort(listing.files.begin(), listing.files.end());
  listing.files.erase(std::unique(listing.files.begin(), listing.files.end()), listing.files.end());
  return listing;
}

RepoListing HubClient::list(const ModelName& name) {
  std::string body;
  int tries = 1;
  const HttpResponse response = ask(list_request(name, body), tries);
  if (!response.ok()) raise_answer(response, name, "", tries);
  return read_listing(response, name, body);
}

std::optional<RepoListing> HubClient::try_list(const ModelName& name) {
  std::string body;
  const HttpResponse response = http_.send(list_request(name, body));
  if (response.may_pass) return std::nullopt;
  if (!response.ok()) raise_answer(response, name, "", 1);
  return read_listing(response, name, body);
}

std::string HubClient::file_url(const ModelName& name, const std::string& commit, const std::string& path) const {
  return fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, url_escape(name.repo, "/"), commit,
                     url_escape(path, "/"));
}

FileMetadata HubClient::metadata(const ModelName& name, const std::string& commit, const std::string& path) {
  const auto says_enough = [](const HttpResponse& response) {
    return !response.header("x-linked-etag").empty() || !response.header("x-repo-commit").empty();
  };
  int tries = 1;
  const HttpResponse response = ask({.url = file_url(name, commit, path), .head = true, .stop_at = says_enough}, tries);
  const bool is_answer = response.failure.empty() && response.status >= 200 && response.status < 400;
  if (!is_answer) raise_answer(response, name, path, tries);
  const std::string where = name.text() + "/" + path;

  const std::string found_commit = response.header("x-repo-commit");
  RAEDIT_CHECK(found_commit.empty() || found_commit == commit, {.code = ErrorCode::format,
                                                                .what = "the hub answers with another commit",
                                                                .where = where,
                                                                .found = shown(found_commit),
                                                                .expected = commit});
  const std::string linked = response.header("x-linked-etag");
  FileMetadata metadata;
  metadata.etag = clean_etag(linked.empty() ? response.header("etag") : linked);
  RAEDIT_CHECK(is_safe_etag(metadata.etag), {.code = ErrorCode::format,
                                             .what = "the hub's name for the content cannot be used",
                                             .where = where,
                                             .found = metadata.etag.empty() ? "no ETag" : shown(metadata.etag),
                                             .expected = "a hash",
                                             .hint = "is HF_ENDPOINT the address of a hub?"});
  metadata.size = number_of<uint64_t>(response.header("x-linked-size"));
  if (!metadata.size && response.ok()) metadata.size = number_of<uint64_t>(response.header("content-length"));
  return metadata;
}

HttpResponse HubClient::get(const ModelName& name, const std::string& commit, const std::string& path, uint64_t from,
                            std::function<void(const HttpResponse&)> begin,
                            std::function<void(const char*, size_t)> sink) {
  return http_.send({.url = file_url(name, commit, path), .from = from, .begin = begin, .sink = sink});
}

void HubClient::raise_answer(const HttpResponse& response, const ModelName& name, const std::string& path,
                             int tries) const {
  const std::string where = path.empty() ? name.text() : name.text() + "/" + path;
  const std::string code = response.header("x-error-code");
  const std::string tried = tries > 1 ? fmt::format(" ({} tries)", tries) : "";
  if (!response.failure.empty())
    raise({.code = ErrorCode::io,
           .what = "cannot reach " + without_query(response.url) + tried,
           .where = where,
           .found = response.failure,
           .hint =
               "check the network, https_proxy, HF_ENDPOINT and (certificates) CURL_CA_BUNDLE, and run it again to go "
               "on; HF_HUB_OFFLINE=1 uses what was downloaded before"});
  // Without a token, a repository that does not exist is told from a private one by this header alone.
  if (code == "RepoNotFound" || (response.status == 404 && code.empty() && path.empty()))
    raise({.code = ErrorCode::not_found,
           .what = "there is no such model on " + settings_.endpoint,
           .where = where,
           .found = answer_text(response),
           .hint = std::string("check the name; a private model needs a token in HF_TOKEN") +
                   (settings_.token.empty() ? "" : " that may read it")});
  if (code == "RevisionNotFound")
    raise({.code = ErrorCode::not_found,
           .what = "the model has no branch, tag or commit of this name",
           .where = where,
           .found = answer_text(response),
           .hint = "leave out @" + name.revision + " for the branch main"});
  if (response.status == 404)
    raise({.code = ErrorCode::not_found,
           .what = "there is no such file in the model",
           .where = where,
           .found = answer_text(response),
           .hint = "see which files it has on " + settings_.endpoint + "/" + name.repo});
  if (response.status == 401 || response.status == 403) {
    const bool gated = code == "GatedRepo";
    raise({.code = ErrorCode::io,
           .what = settings_.token.empty() ? "the model needs a token" : "the model needs a token that may read it",
           .where = where,
           .found = answer_text(response),
           .hint = (gated ? "it is gated: accept its terms on " + settings_.endpoint + "/" + name.repo + " and set"
                          : std::string("set")) +
                   " HF_TOKEN to a token with read access; a model whose terms must be accepted needs that as well"});
  }
  raise({.code = ErrorCode::io,
         .what = "the hub does not give what was asked for" + tried,
         .where = where,
         .found = answer_text(response),
         .hint = response.may_pass ? "wait a little and run it again to go on" : ""});
}

}  // namespace raedit::hub
