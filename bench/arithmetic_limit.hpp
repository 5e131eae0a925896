// What one core can calculate at best, for learner_bench: compiled for the machine it is built on.
#pragma once

namespace myriad {

double fma_flops();   ///< fused multiply-adds on registers alone, a millisecond or so; returns the FLOPs
double gemm_flops();  ///< Eigen's product of two float matrices of 1,024 x 1,024; returns the FLOPs

}  // namespace myriad
