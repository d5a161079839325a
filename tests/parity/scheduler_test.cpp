// Every schedule in the reference file, to one unit in the last place.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit {
namespace {

// Both are positive or zero, so the bits of floats count their units.
int64_t ulps(float a, float b) {
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - int64_t{std::bit_cast<int32_t>(b)});
}

void expect_close(const std::string& name, const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size()) << name;
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_LE(ulps(found[i], expected[i]), 1) << name << "[" << i << "]: " << found[i] << " for " << expected[i];
}

// The names round the shift to four places: 1, sqrt(3) and sqrt(48).
double exact_shift(const std::string& name) {
  for (const double shift : {1.0, std::sqrt(3.0), std::sqrt(48.0)})
    if (std::abs(shift - std::stod(name)) < 1e-4) return shift;
  ADD_FAILURE() << "a shift that the test does not know: " << name;
  return 1;
}

// "n12", "train", "karras.n12", ...: what the part of a name between shift and ".sigmas" asks for.
std::vector<float> reproduce(const std::string& what, double shift, bool timesteps) {
  FlowMatchEulerDiscreteSchedulerConfig config{.shift = shift};
  const auto begins = [&](const char* prefix) { return what.rfind(prefix, 0) == 0; };
  SetTimestepsOptions options;
  if (begins("dynamic_mu_log_shift_plus_0.2.")) {
    config.use_dynamic_shifting = true;
    options.mu = std::log(shift) + 0.2;
  } else if (begins("terminal0.1.")) {
    config.shift_terminal = 0.1;
  } else if (begins("use_karras_sigmas.")) {
    config.use_karras_sigmas = true;
  } else if (begins("use_exponential_sigmas.")) {
    config.use_exponential_sigmas = true;
  } else if (what == "custom_1_.8_.5_.2") {
    options.sigmas = {1.0, 0.8, 0.5, 0.2};
  } else if (what != "train" && !begins("n")) {
    ADD_FAILURE() << "a schedule that the test does not know: " << what;
  }
  FlowMatchEulerDiscreteScheduler scheduler(config);
  if (options.sigmas)
    scheduler.set_timesteps({}, options);
  else if (what != "train")
    scheduler.set_timesteps(std::stoi(what.substr(what.rfind('n') + 1)), options);
  return timesteps ? scheduler.timesteps() : scheduler.sigmas();
}

TEST(SchedulerParity, EverySchedule) {
  const SafetensorsFile file = SafetensorsFile::open(std::string(RAEDIT_TEST_DATA) + "/scheduler/sigmas.safetensors");
  int compared = 0;
  for (const std::string& name : file.names()) {
    const size_t shift_end = std::string("shift0.0000").size();
    const size_t kind = name.rfind('.') + 1;
    const double shift = exact_shift(name.substr(5, shift_end - 5));
    const std::vector<float> expected = file.tensor(name).to_vector<float>();
    ++compared;
    if (name.substr(kind) == "t") {
      const std::vector<double> grid = upstream_sigmas(static_cast<int>(expected.size()), shift);
      expect_close(name, std::vector<float>(grid.begin(), grid.end()), expected);
      continue;
    }
    expect_close(name,
                 reproduce(name.substr(shift_end + 1, kind - shift_end - 2), shift, name.substr(kind) == "timesteps"),
                 expected);
  }
  EXPECT_EQ(compared, 54);  // 3 shifts
}

}  // namespace
}  // namespace raedit
