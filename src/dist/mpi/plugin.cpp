#include "dist/plugin.h"

#include "dist/mpi/mpi_communicator.h"
#include "raedit/export.h"

namespace raedit::dist {
namespace {

constexpr Plugin kPlugin{kBuild, mpi::open_world};

}  // namespace
}  // namespace raedit::dist

extern "C" RAEDIT_API const raedit::dist::Plugin* raedit_mpi_plugin() {
  return &raedit::dist::kPlugin;
}
