// Ranks: the processes that train one model together, and what they say to each other. One process alone is one rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace raedit::dist {

// A collective that was begun. wait() once; test() lets it go on without waiting for its end.
class Request {
 public:
  virtual ~Request() = default;
  virtual bool test() = 0;
  virtual void wait() = 0;
};

// All ranks call the same functions in the same order. Host memory. Throws Error(io) when a rank is lost.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_first() const { return rank() == 0; }

  // Every rank gets the sum over the ranks; the same bits on all of them, and in every run with as many ranks.
  virtual void all_reduce(std::span<float> values) = 0;
  virtual void all_reduce(std::span<double> values) = 0;
  // Begun now; `values` must stay, untouched, until it has been waited for.
  virtual std::unique_ptr<Request> begin_all_reduce(std::span<float> values) = 0;
  // Whether any rank says so.
  virtual bool any(bool here) = 0;
  // What `root` has, in place.
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  std::string broadcast(std::string text, int root);
  virtual void barrier() = 0;
  // A failure of one must not leave the others waiting: ends all ranks, this one too. Nothing where it is alone.
  virtual void end_all(int exit_code) = 0;
};

// This process alone.
std::unique_ptr<Communicator> single_rank();
// The ranks that mpirun or srun started, of which this process is one; one rank where it was started by itself. Throws
// Error(unsupported) when ranks were started and this build has no MPI.
std::unique_ptr<Communicator> open_communicator();

}  // namespace raedit::dist
