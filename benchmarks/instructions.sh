#!/usr/bin/env bash
# Nothing slower without notice: counts the instructions of a fixed set of small cases with callgrind
# and compares them with benchmarks/instructions.txt.
#
#   benchmarks/instructions.sh             a table; the exit status is 1 where a case grew by over 3 %
#   benchmarks/instructions.sh --update    writes the file anew
#
# Counts do not depend on the machine's speed or load, but on the compiler and on the C library: where
# these are not those of the file nothing is compared, and the exit status is 2. AVX2, as callgrind
# knows no AVX-512; one thread; time spent waiting for memory is not seen at all.
source "$(dirname "$0")/../scripts/common.sh"
file=benchmarks/instructions.txt build=build/benchmarks

make_environment
apt_install valgrind "counts the instructions"
pip_install cmake ninja
cmake -S benchmarks -B $build -G Ninja >/dev/null
cmake --build $build --target instructions >/dev/null

counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
run=(env -i QUIRE_CPU=avx2 PATH="$PATH")
built_by=$("${run[@]}" $build/instructions --built-by) || exit 2
"${run[@]}" valgrind --tool=callgrind --instr-atstart=no --collect-atstart=no \
  --callgrind-out-file="$counts/case" $build/instructions 2>"$counts/log" || {
  cat "$counts/log" >&2
  exit 1
}
# a dump for each case, its name in the line "desc: Trigger", its instructions in "totals"
for dump in $(ls -v "$counts"/case.*); do
  awk '/^desc: Trigger: Client Request:/ {name = $NF} /^totals:/ {print name, $2}' "$dump"
done >"$counts/now"

if [ "${1:-}" = --update ]; then
  {
    echo "# Instructions of each case; benchmarks/instructions.sh compares and --update writes them."
    echo "# $built_by"
    column -t "$counts/now"
  } >$file
  echo "$file: $(wc -l <"$counts/now") cases written"
  exit
fi

of_file=$(sed -n '2s/^# //p' $file)
if [ "$of_file" != "$built_by" ]; then
  echo "not compared: $file is of $of_file; here it is $built_by" >&2
  exit 2
fi
awk -v most=3 '
  /^#/ {next}
  NR == FNR {before[$1] = $2; next}
  FNR == 1 {printf "%-28s %10s %10s %8s\n", "instructions", "before", "now", "change"}
  {
    seen[$1] = 1
    if (!($1 in before)) {printf "%-28s %10s %10d %8s\n", $1, "", $2, "NEW"; bad++; next}
    change = 100 * ($2 / before[$1] - 1)
    grew = (change > most)
    printf "%-28s %10d %10d %+7.1f%%%s\n", $1, before[$1], $2, change, (grew ? "  GREW" : "")
    bad += grew
  }
  END {
    for (name in before) {
      if (name in seen) continue
      printf "%-28s %10d %10s %8s\n", name, before[name], "", "GONE"
      bad++
    }
    if (bad) printf "%d cases grew by over %d %%, or are not those of the file\n", bad, most
    exit (bad > 0)
  }' $file "$counts/now"
