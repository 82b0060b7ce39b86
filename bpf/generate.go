package bpf

// The objects are committed, so that building needs no clang. Both are made the
// same each time; CI makes them again and fails on a difference.
//
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel,bpfeb -go-package bpf -output-stem facts -no-global-types -type record -cflags "-O2 -g -Wall -Werror -mcpu=v3" facts facts.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel,bpfeb -go-package bpf -output-stem recorder -no-global-types -type conn -type half -type slot -type head -type event -type endpoint -type load -type counters -type key -cflags "-O2 -g -Wall -Werror -mcpu=v3" recorder recorder.c
