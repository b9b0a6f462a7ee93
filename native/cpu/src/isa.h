// Which instruction sets are built in, and which of them this machine runs.
#ifndef ACCELCPU_ISA_H
#define ACCELCPU_ISA_H

#include "kernels.h"

namespace accelcpu {

// All that are built in, best last.
struct IsaList {
  const Kernels* const* begin;
  int count;
};
IsaList isas();

bool runs_here(const Kernels&);

}  // namespace accelcpu
#endif
