// Sums are our own, made of messages: MPI promises neither the same bits on all ranks nor in every run. Each rank gets
// everybody's numbers for its share of the elements, adds them up in the order of the ranks, and sends the sums to all:
// as few bytes as a ring, in two exchanges.
#include "dist/mpi/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <exception>
#include <vector>

#include "dist/plugin.h"

namespace raedit::dist::mpi {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;  // of one call: MPI counts in int
constexpr size_t kMostElements = size_t{1} << 28;
constexpr int kTags = 1 << 14;  // MPI promises 2^15

void check(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(status, text.data(), &length);
  raise({.code = ErrorCode::io,
         .what = "a rank is lost, or cannot be reached",
         .where = call,
         .found = std::string(text.data(), static_cast<size_t>(length)),
         .hint = "what the other ranks say comes first"});
}

MPI_Datatype type_of(float) {
  return MPI_FLOAT;
}
MPI_Datatype type_of(double) {
  return MPI_DOUBLE;
}

template <class T>
class Sum final : public Request {
 public:
  Sum(int rank, int size, std::span<T> values, int tag) : rank_(rank), size_(size), values_(values), tag_(tag) {
    const std::span<T> mine = share(rank_);
    theirs_ = std::make_unique<T[]>(mine.size() * static_cast<size_t>(size_ - 1));
    for (int other = 0; other < size_; ++other)
      if (other != rank_) receive(from(other), other, tag_);
    for (int other = 0; other < size_; ++other)
      if (other != rank_) send(share(other), other, tag_);
  }
  // Unfinished: somebody may still write there.
  ~Sum() override {
    if (!summed_) static_cast<void>(theirs_.release());
  }

  bool test() override {
    while (!done_) {
      int all = 0;
      check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE),
            "MPI_Testall");
      if (all == 0) return false;
      go_on();
    }
    return true;
  }

  void wait() override {
    while (!done_) {
      check(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
      go_on();
    }
  }

 private:
  std::span<T> share(int rank) const {
    const size_t n = values_.size(), r = static_cast<size_t>(rank), size = static_cast<size_t>(size_);
    return values_.subspan(n * r / size, n * (r + 1) / size - n * r / size);
  }
  std::span<T> from(int other) const {
    const size_t each = share(rank_).size();
    return {theirs_.get() + each * static_cast<size_t>(other < rank_ ? other : other - 1), each};
  }
  void receive(std::span<T> to, int other, int tag) {
    check(MPI_Irecv(to.data(), static_cast<int>(to.size()), type_of(T()), other, tag, MPI_COMM_WORLD,
                    &requests_.emplace_back(MPI_REQUEST_NULL)),
          "MPI_Irecv");
  }
  void send(std::span<T> what, int other, int tag) {
    check(MPI_Isend(what.data(), static_cast<int>(what.size()), type_of(T()), other, tag, MPI_COMM_WORLD,
                    &requests_.emplace_back(MPI_REQUEST_NULL)),
          "MPI_Isend");
  }

  // All messages of this exchange are there.
  void go_on() {
    requests_.clear();
    if (summed_) {
      done_ = true;
      return;
    }
    add_up();
    summed_ = true;
    theirs_ = nullptr;
    for (int other = 0; other < size_; ++other) {
      if (other == rank_) continue;
      receive(share(other), other, tag_ + 1);
      send(share(rank_), other, tag_ + 1);
    }
  }

  void add_up() {
    const std::span<T> mine = share(rank_);
    std::array<T, 1024> sum;
    for (size_t first = 0; first < mine.size(); first += sum.size()) {
      const size_t count = std::min(sum.size(), mine.size() - first);
      for (int rank = 0; rank < size_; ++rank) {
        const T* part = (rank == rank_ ? mine : from(rank)).data() + first;
        for (size_t i = 0; i < count; ++i) sum[i] = rank == 0 ? part[i] : sum[i] + part[i];
      }
      std::copy_n(sum.begin(), count, mine.begin() + static_cast<std::ptrdiff_t>(first));
    }
  }

  const int rank_, size_;
  const std::span<T> values_;
  const int tag_;
  std::unique_ptr<T[]> theirs_;
  std::vector<MPI_Request> requests_;
  bool summed_ = false, done_ = false;
};

class World final : public Communicator {
 public:
  World() {
    int begun = 0;
    MPI_Initialized(&begun);
    if (begun != 0) refuse("MPI was begun before", "open the ranks once");
    int threads = MPI_THREAD_SINGLE;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &threads), "MPI_Init_thread");
    if (threads < MPI_THREAD_FUNNELED) refuse("this MPI knows no threads", "rebuild MPI with threads");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  }
  // On the way of an error the others may be anywhere, and MPI_Finalize would wait for them.
  ~World() override {
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_reduce(std::span<float> values) override { in_pieces(values); }
  void all_reduce(std::span<double> values) override { in_pieces(values); }
  std::unique_ptr<Request> begin_all_reduce(std::span<float> values) override { return begin(values); }

  bool any(bool here) override {
    int said = here ? 1 : 0;
    check(MPI_Allreduce(MPI_IN_PLACE, &said, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD), "MPI_Allreduce");
    return said != 0;
  }

  void broadcast(void* data, size_t bytes, int root) override {
    for (auto* at = static_cast<std::byte*>(data); bytes > 0;) {
      const size_t now = std::min(bytes, kMostBytes);
      check(MPI_Bcast(at, static_cast<int>(now), MPI_BYTE, root, MPI_COMM_WORLD), "MPI_Bcast");
      at += now;
      bytes -= now;
    }
  }

  void barrier() override { check(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier"); }
  void end_all(int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  template <class T>
  std::unique_ptr<Request> begin(std::span<T> values) {
    RAEDIT_CHECK(values.size() <= kMostElements,
                 {.code = ErrorCode::internal, .what = "too many elements for one sum", .where = "begin_all_reduce"});
    next_tag_ = (next_tag_ + 2) % kTags;  // all ranks begin the same sums in the same order
    return std::make_unique<Sum<T>>(rank_, size_, values, next_tag_);
  }
  template <class T>
  void in_pieces(std::span<T> values) {
    for (size_t first = 0; first < values.size(); first += kMostElements)
      begin(values.subspan(first, std::min(kMostElements, values.size() - first)))->wait();
  }

  int rank_ = 0, size_ = 1, next_tag_ = 0;
};

}  // namespace

Communicator* open_world() {
  return new World();
}

}  // namespace raedit::dist::mpi
