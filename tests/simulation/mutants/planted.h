// The switch behind every planted bug: at most one is on in a process. Only in the mutation build;
// production sources never see this.

#ifndef TESSERA_TESTS_SIMULATION_MUTANTS_PLANTED_H_
#define TESSERA_TESTS_SIMULATION_MUTANTS_PLANTED_H_

namespace tessera {

// In order of their numbers, which begin at 1.
extern const char* const kPlantedNames[];
extern const int kPlantedCount;

// Number of the bug that is on, 0 for none; begins as TESSERA_PLANTED of the environment.
int& PlantedNow();
inline bool Planted(int number) { return PlantedNow() == number; }

}  // namespace tessera

#endif  // TESSERA_TESTS_SIMULATION_MUTANTS_PLANTED_H_
