// What goes away by itself: busy servers, cut lines, full disks, impatient users. The run after it always succeeds.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <future>
#include <thread>

#include "hub/fake_hub.h"
#include "raedit/hub.h"

namespace raedit::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Failures : public HubTest {
 protected:
  const std::string weights = "vae/weights.safetensors";

  // The first `count` answers to what `matches` are `reply`.
  static std::function<std::optional<Reply>(const Request&)> first(int count, const std::string& method,
                                                                   const std::string& part, const Reply& reply) {
    auto left = std::make_shared<std::atomic<int>>(count);
    return [=](const Request& request) -> std::optional<Reply> {
      if (request.method != method || request.target.find(part) == std::string::npos) return std::nullopt;
      if (left->fetch_sub(1) <= 0) return std::nullopt;
      return reply;
    };
  }
  // The CDN's answer for the weights, cut after `bytes`.
  Reply cut_after(size_t bytes) const { return {.body = hub.large.at(weights), .stop_after = bytes}; }

  std::vector<std::string> ranges() const {
    std::vector<std::string> found;
    for (const Request& request : hub.cdn_requests())
      if (request.target.find(weights) != std::string::npos) found.push_back(request.header("range"));
    return found;
  }
  void download() { EXPECT_EQ(download_model("org/name", {}, options), snapshot()); }
  void expect_failure(ErrorCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] { download_model("org/name", {}, options); });
    expect_nothing_half_written();
  }
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

TEST_F(Failures, TriesAgainWhatMayPass) {
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    fs::remove_all(cache);
    const Reply busy{.status = status, .body = "busy"};
    hub.on_hub = first(2, "GET", "/api/models", busy);
    hub.on_cdn = first(2, "GET", weights, busy);
    download();
    hub.on_hub = first(2, "HEAD", "model.pt", busy);
    fs::remove_all(cache);
    download();
    expect_nothing_half_written();
  }
}

TEST_F(Failures, TriesAgainWhenNobodyAnswers) {
  hub.on_hub = first(2, "GET", "/api/models", {.drop = true});
  hub.on_cdn = first(2, "GET", weights, {.drop = true});
  download();
  expect_next_run_succeeds();
}

TEST_F(Failures, GivesUpAfterTheLastTry) {
  options.retries = 2;
  hub.on_cdn = first(1000, "GET", weights, {.status = 503, .body = "busy"});
  expect_failure(ErrorCode::io, {"3 tries", "org/name@main/" + weights, "HTTP 503", hub.cdn_url() + "/" + weights});
  EXPECT_EQ(ranges().size(), 3u);
  try {
    download_model("org/name", {}, options);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos) << "a signed address: " << error.what();
  }
  options.retries = 0;
  fs::remove_all(cache);
  const size_t asked = hub.hub_requests().size();
  hub.on_hub = first(1000, "GET", "/api/models", {.status = 500});
  expect_failure(ErrorCode::io, {"HTTP 500", "org/name@main"});
  EXPECT_EQ(hub.hub_requests().size(), asked + 1);
  options.retries = 4;
  expect_next_run_succeeds();
}

TEST_F(Failures, DoesNotWaitForAHostThatIsUnknown) {
  options.endpoint = "http://" + std::string(70, 'h') + ".invalid";  // too long a label: no name server is asked
  options.retries = 4;
  const auto start = Clock::now();
  options.first_pause_seconds = 5;
  expect_failure(ErrorCode::io, {"cannot reach http://hhh", "check the network"});
  EXPECT_LT(seconds_since(start), 4.0);
}

TEST_F(Failures, HonoursRetryAfter) {
  hub.on_hub = first(1, "GET", "/api/models", {.status = 429, .headers = {{"Retry-After", "1"}}});
  const auto start = Clock::now();
  download();
  EXPECT_GE(seconds_since(start), 1.0);
  EXPECT_LT(seconds_since(start), 10.0);
}

TEST_F(Failures, ResumesACutConnection) {
  hub.on_cdn = first(1, "GET", weights, cut_after(100'000));
  download();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=100000-"}));
  EXPECT_EQ(hub.cdn_bytes_sent(), 300'007u + 70'001u) << "no byte was sent twice";
  expect_next_run_succeeds();
}

TEST_F(Failures, ResumesInTheNextRun) {
  options.retries = 0;
  hub.on_cdn = first(1, "GET", weights, cut_after(123'456));
  expect_failure(ErrorCode::io, {"cannot reach", weights});
  EXPECT_EQ(slurp(part_of(weights)), hub.large[weights].substr(0, 123'456));
  EXPECT_FALSE(fs::exists(storage() + "/refs/main")) << "the name stands for nothing that is not whole";
  expect_next_run_succeeds();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=123456-"}));
  EXPECT_EQ(hub.cdn_bytes_sent(), 300'007u + 70'001u);
  EXPECT_FALSE(fs::exists(part_of(weights)));
}

TEST_F(Failures, ALongFileOverABadLineGetsThere) {
  hub.large[weights] = random_bytes((size_t{8} << 20) + 5, 3);
  options.retries = 1;
  hub.on_cdn = [&](const Request& request) -> std::optional<Reply> {
    if (request.target.find(weights) == std::string::npos) return std::nullopt;
    Reply reply = hub.content(request, hub.large[weights], {});
    reply.stop_after = (size_t{1} << 20) + 1000;  // cut every time
    return reply;
  };
  download();
  EXPECT_EQ(ranges().size(), 8u);
  EXPECT_EQ(hub.cdn_bytes_sent(), hub.large[weights].size() + 70'001u);
  expect_next_run_succeeds();
}

TEST_F(Failures, StartsAgainWhereThereAreNoRanges) {
  hub.has_ranges = false;
  hub.on_cdn = first(1, "GET", weights, cut_after(100'000));
  download();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=100000-"}));
  EXPECT_EQ(hub.cdn_bytes_sent(), 100'000u + 300'007u + 70'001u);
  expect_next_run_succeeds();
}

TEST_F(Failures, GivesUpWhereThereAreNoRangesAndEveryConnectionIsCut) {
  hub.has_ranges = false;
  hub.large[weights] = random_bytes(size_t{3} << 20, 4);
  hub.on_cdn = first(1000, "GET", weights, cut_after(size_t{2} << 20));
  options.retries = 2;
  expect_failure(ErrorCode::io, {"cannot reach", weights});
  EXPECT_LE(ranges().size(), 4u) << "the same bytes again are no progress";
  expect_next_run_succeeds();
}

TEST_F(Failures, StartsAgainWhenTheRangeIsRefused) {
  fs::create_directories(storage() + "/blobs");
  spit(part_of(weights), hub.large[weights].substr(0, 1000));
  hub.on_cdn = first(1, "GET", weights, {.status = 416, .body = "no such range"});
  download();
  EXPECT_EQ(ranges(), (std::vector<std::string>{"bytes=1000-", ""}));
  expect_next_run_succeeds();
}

TEST_F(Failures, StartsAgainWithAPartThatIsTooLongAndTakesOneThatIsWhole) {
  fs::create_directories(storage() + "/blobs");
  spit(part_of(weights), hub.large[weights] + "more");
  spit(part_of("model.pt"), hub.large["model.pt"]);
  download();
  EXPECT_EQ(ranges(), (std::vector<std::string>{""}));
  EXPECT_EQ(hub.cdn_bytes_sent(), 300'007u) << "the other was there";
  expect_next_run_succeeds();
}

TEST_F(Failures, RefusesAnotherRangeThanWasAskedFor) {
  fs::create_directories(storage() + "/blobs");
  spit(part_of(weights), hub.large[weights].substr(0, 1000));
  hub.on_cdn = first(1, "GET", weights,
                     {.status = 206,
                      .headers = {{"Content-Range", "bytes 2000-300006/300007"}},
                      .body = hub.large[weights].substr(2000)});
  expect_failure(ErrorCode::io, {"another part", "bytes 2000-", "bytes 1000-"});
  expect_next_run_succeeds();
}

TEST_F(Failures, AStalledTransferIsGivenUpAndResumed) {
  environment.set("HF_HUB_DOWNLOAD_TIMEOUT", "1");
  Reply stalled = cut_after(50'000);
  stalled.stall = true;
  hub.on_cdn = first(1, "GET", weights, stalled);
  const auto start = Clock::now();
  download();
  EXPECT_LT(seconds_since(start), 15.0);
  EXPECT_EQ(ranges(), (std::vector<std::string>{"", "bytes=50000-"}));
  expect_next_run_succeeds();
}

TEST_F(Failures, ADiskThatFillsHalfwaySaysHowMuchItTakes) {
  {
    const test::FileSizeLimit limit(100'000);
    expect_failure(ErrorCode::io, {"File too large", ".incomplete", "97.66 KiB written", "292.98 KiB in all",
                                   "195.32 KiB more", "ulimit"});
  }
  EXPECT_EQ(slurp(part_of(weights)), hub.large[weights].substr(0, 100'000)) << "kept, under its own name";
  expect_next_run_succeeds();
  EXPECT_EQ(ranges().back(), "bytes=100000-");
}

TEST_F(Failures, AsksForRoomBeforeItAsksForBytes) {
  hub.on_hub = first(1, "HEAD", weights,
                     {.status = 302,
                      .headers = {{"Location", hub.cdn_url() + "/x"},
                                  {"X-Linked-Etag", sha256(hub.large[weights])},
                                  {"X-Linked-Size", "1152921504606846976"}}});
  expect_failure(ErrorCode::io, {"not enough space", weights, "free", "GiB", "HF_HUB_CACHE"});
  EXPECT_TRUE(ranges().empty());
  expect_next_run_succeeds();
}

TEST_F(Failures, AFolderThatCannotBeWrittenIsNamed) {
  spit(cache, "a file where the cache should be");
  expect_error(ErrorCode::io, {cache}, [&] { download_model("org/name", {}, options); });
  fs::remove(cache);
  expect_next_run_succeeds();
}

TEST_F(Failures, CancelsAtOnce) {
  std::atomic<bool> stop = false;
  options.progress = [&](const HubProgress&) { return !stop; };
  const auto cancel_in = [&](double delay) {
    stop = false;
    Clock::time_point asked;
    std::thread later([&] {
      std::this_thread::sleep_for(std::chrono::duration<double>(delay));
      asked = Clock::now();
      stop = true;
    });
    expect_failure(ErrorCode::cancelled, {"cancelled"});
    later.join();
    EXPECT_LT(seconds_since(asked), 1.0);
  };
  // In a transfer that stalls,
  Reply stalled = cut_after(50'000);
  stalled.stall = true;
  hub.on_cdn = first(1000, "GET", weights, stalled);
  cancel_in(0.3);
  EXPECT_EQ(slurp(part_of(weights)), hub.large[weights].substr(0, 50'000));
  // in the pause between two tries,
  options.first_pause_seconds = 30;
  hub.on_cdn = first(1000, "GET", weights, {.status = 503});
  cancel_in(0.3);
  // and while the list does not come.
  hub.on_hub = first(1000, "GET", "/api/models", {.body = "x", .stop_after = 0, .stall = true});
  cancel_in(0.3);
  options.first_pause_seconds = 0.01;
  expect_next_run_succeeds();
}

TEST_F(Failures, CancelsBeforeAnythingIsAsked) {
  options.progress = [](const HubProgress&) { return false; };
  expect_failure(ErrorCode::cancelled, {"cancelled"});
  expect_next_run_succeeds();
}

// Holds the lock of the weights, as another process that downloads them; gone when killed.
pid_t hold_lock(const std::string& path) {
  std::array<int, 2> ready{};
  EXPECT_EQ(::pipe(ready.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0666);
    const bool held = fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    (void)!::write(ready[1], held ? "y" : "n", 1);
    ::sleep(60);
    ::_exit(0);
  }
  char held = 0;
  EXPECT_EQ(::read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 'y');
  ::close(ready[0]);
  ::close(ready[1]);
  return child;
}

TEST_F(Failures, WaitsForAnotherProcessAndTakesOverWhenItDies) {
  fs::create_directories(cache + "/.locks/models--org--name");
  const pid_t other = hold_lock(cache + "/.locks/models--org--name/" + sha256(hub.large[weights]) + ".lock");
  options.progress = [until = Clock::now() + std::chrono::milliseconds(500)](const HubProgress&) {
    return Clock::now() < until;
  };
  expect_failure(ErrorCode::cancelled, {"cancelled", weights});
  options.progress = nullptr;
  auto download = std::async(std::launch::async, [&] { return download_model("org/name", {}, options); });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(ranges().empty());
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  EXPECT_EQ(download.get(), snapshot());
  EXPECT_EQ(ranges().size(), 1u);
  expect_next_run_succeeds();
}

TEST_F(Failures, WithoutANetworkTheCacheHasToDo) {
  std::string nobody;
  {
    const HttpServer server([](const Request&) { return Reply{}; });
    nobody = server.url();
  }
  HubOptions unreachable = options;
  unreachable.endpoint = nobody;
  unreachable.retries = 1;
  expect_error(ErrorCode::io, {"cannot reach " + nobody, "2 tries", "org/name@main", "https_proxy", "HF_HUB_OFFLINE"},
               [&] { download_model("org/name", {}, unreachable); });
  EXPECT_FALSE(fs::exists(cache)) << "nothing was made for nothing";
  download();
  EXPECT_EQ(download_model("org/name", {"*.pt"}, unreachable), snapshot());
  expect_error(ErrorCode::not_found, {"*.gguf"}, [&] { download_model("org/name", {"*.gguf"}, unreachable); });
}

}  // namespace
}  // namespace raedit::test
