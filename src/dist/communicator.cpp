#include "dist/communicator.h"

namespace raedit::dist {
namespace {

class Done final : public Request {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(std::span<float>) override {}
  void all_reduce(std::span<double>) override {}
  std::unique_ptr<Request> begin_all_reduce(std::span<float>) override { return std::make_unique<Done>(); }
  bool any(bool here) override { return here; }
  void broadcast(void*, size_t, int) override {}
  void barrier() override {}
  void end_all(int) override {}
};

}  // namespace

std::string Communicator::broadcast(std::string text, int root) {
  uint64_t length = text.size();
  broadcast(&length, sizeof(length), root);
  text.resize(length);
  broadcast(text.data(), text.size(), root);
  return text;
}

std::unique_ptr<Communicator> single_rank() {
  return std::make_unique<SingleRank>();
}

std::unique_ptr<Communicator> open_communicator() {
  return single_rank();
}

}  // namespace raedit::dist
