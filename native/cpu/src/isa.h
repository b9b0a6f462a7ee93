// Which instruction sets are built in, and which of them this machine runs.
#ifndef ACCELCPU_ISA_H
#define ACCELCPU_ISA_H

#include "kernels.h"

namespace accelcpu {

struct Isa {
  Kernels kernels;
  bool runs_here;
};

// All that are built in, best last.
struct IsaList {
  const Isa* begin;
  int count;
};
IsaList isas();

}  // namespace accelcpu
#endif
