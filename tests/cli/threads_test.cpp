// How many threads the program takes by itself: what it may use, and not what the machine has.
#include <sched.h>

#include <thread>

#include "cli_test.h"

namespace raedit::cli_test {
namespace {

class ThreadsTest : public CliTest {
 protected:
  int threads(const std::vector<std::string>& more, const std::string& omp_num_threads) const {
    std::vector<std::string> arguments{"generate", "--model", tiny_,           "--class-id", "1",
                                       "--steps",  "1",       "--output-type", "latent",     "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const RunOptions options{.environment = {{"OMP_NUM_THREADS", omp_num_threads}, {"OMP_PROC_BIND", "false"}}};
    const Json json = Json::parse(expect_success(arguments, options));
    const int count = json.at("threads");
    const std::string words = "cpu, " + std::to_string(count) + (count == 1 ? " thread," : " threads,");
    EXPECT_TRUE(json.at("device").get<std::string>().starts_with(words)) << json.at("device");
    return count;
  }

  std::string tiny_ = tiny_model();
};

TEST_F(ThreadsTest, FollowTheProcessorsThatItMayUse) {
  std::thread([&] {  // the program inherits this thread's processors
    cpu_set_t mask;
    ASSERT_EQ(::sched_getaffinity(0, sizeof mask, &mask), 0);
    const int all = CPU_COUNT(&mask);
    EXPECT_LE(threads({}, "1000"), all);
    EXPECT_EQ(threads({}, "1"), 1);
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_COUNT(&mask) > 1) CPU_CLR(i, &mask);
    ASSERT_EQ(::sched_setaffinity(0, sizeof mask, &mask), 0);
    EXPECT_EQ(threads({}, "1000"), 1);
    EXPECT_EQ(threads({"--threads", "3"}, "1"), 3);  // asked for: taken
  })
      .join();
}

}  // namespace
}  // namespace raedit::cli_test
