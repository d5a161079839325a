#include "train/stage2_ranks.h"

#include <algorithm>
#include <array>
#include <exception>
#include <numeric>

#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::train {

std::vector<int> share_out(const std::vector<size_t>& bytes, int ranks) {
  std::vector<size_t> order(bytes.size()), load(static_cast<size_t>(ranks));
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return bytes[a] > bytes[b]; });
  std::vector<int> owners(bytes.size());
  for (const size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += bytes[i];
    owners[i] = static_cast<int>(least - load.begin());
  }
  return owners;
}

Stage2Ranks::Stage2Ranks(dist::Communicator& ranks, std::vector<Tensor> parameters, bool shared_out)
    : ranks_(ranks), shared_out_(shared_out), parameters_(std::move(parameters)) {
  std::vector<size_t> bytes;
  for (const Tensor& parameter : parameters_) {
    if (!index_.emplace(parameter.storage()->id(), storages_.size()).second) continue;
    storages_.push_back(parameter.storage());
    bytes.push_back(parameter.storage()->bytes());
  }
  owners_ = share_out(bytes, ranks_.size());
  for (const auto& storage : storages_) broadcast(*storage, 0);
}

std::vector<bool> Stage2Ranks::owned() const {
  std::vector<bool> owned;
  if (!shared_out_) return owned;
  for (const Tensor& parameter : parameters_)
    owned.push_back(owners_[index_.at(parameter.storage()->id())] == ranks_.rank());
  return owned;
}

void Stage2Ranks::set_gradients(const std::vector<Tensor>& gradients) {
  std::vector<std::shared_ptr<Storage>> storages(storages_.size());
  for (size_t i = 0; i < gradients.size(); ++i)
    storages[index_.at(parameters_[i].storage()->id())] = gradients[i].storage();
  sum_.emplace(ranks_, std::move(storages));
}

void Stage2Ranks::ready(uint64_t parameter_storage) {
  sum_->ready(index_.at(parameter_storage));
}

void Stage2Ranks::finish_sum(const Tensor& loss) {
  sum_->finish();
  std::array<double, 1> value{loss.cpu().item()};
  ranks_.all_reduce(std::span<double>(value));
  loss.copy_from(Tensor::from(std::span<const double>(value), {1}));
}

void Stage2Ranks::spread_parameters() const {
  if (!shared_out_) return;
  for (size_t i = 0; i < storages_.size(); ++i) broadcast(*storages_[i], owners_[i]);
}

void Stage2Ranks::broadcast(const Storage& storage, int root) const {
  if (storage.memory() == nullptr) return ranks_.broadcast(storage.data(), storage.bytes(), root);
  std::vector<std::byte> host(storage.bytes());
  if (ranks_.rank() == root) storage.memory()->to_host(host.data(), storage.data(), host.size());
  ranks_.broadcast(host.data(), host.size(), root);
  if (ranks_.rank() != root) storage.memory()->from_host(storage.data(), host.data(), host.size());
}

void Stage2Ranks::broadcast(const Tensor& tensor) const {
  ranks_.broadcast(tensor.raw(), tensor.nbytes(), 0);
}

std::vector<Tensor> Stage2Ranks::gather(const std::vector<Tensor>& owned, bool everywhere) const {
  if (!shared_out_ || owned.empty()) return owned;
  std::vector<Tensor> all = owned;
  std::vector<std::shared_ptr<Storage>> here(storages_.size());
  for (size_t i = 0; i < owned.size(); ++i)
    if (owned[i].defined()) here[index_.at(parameters_[i].storage()->id())] = owned[i].storage();
  for (size_t s = 0; s < storages_.size(); ++s) {
    if (here[s] != nullptr) {
      broadcast(*here[s], owners_[s]);
      continue;
    }
    here[s] = Storage::allocate(storages_[s]->bytes());
    broadcast(*here[s], owners_[s]);
    if (!everywhere && !ranks_.is_first()) here[s] = nullptr;
  }
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& storage = here[index_.at(parameters_[i].storage()->id())];
    all[i] = storage != nullptr ? parameters_[i].same_view_of(storage, DType::float32) : Tensor();
  }
  return all;
}

void Stage2Ranks::on_first(const std::function<void()>& work, const char* what, const std::string& where) const {
  std::exception_ptr failure;
  try {
    if (ranks_.is_first()) work();
  } catch (...) {
    failure = std::current_exception();
  }
  const bool failed = ranks_.any(failure != nullptr);
  if (failure != nullptr) std::rethrow_exception(failure);
  if (failed) raise({.code = ErrorCode::io, .what = what, .where = where, .hint = "the first rank says why"});
}

}  // namespace raedit::train
