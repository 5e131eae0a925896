// main() of every test program: doctest's own, with its options (-tc=, -ts=, --help).
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
