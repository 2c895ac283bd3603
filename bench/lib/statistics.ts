/** Are two small samples from one distribution? */

/**
 * The two-sided Mann–Whitney test, exact by counting: the share of all ways to deal the values into two samples of these sizes whose
 * rank sum is at least as far from its mean as the seen one. Equal values share their mean rank. For up to some twenty values a side.
 * (Mann and Whitney, “On a test of whether one of two random variables is stochastically larger than the other”, 1947.)
 *
 * @returns from 0 to 1; small: hardly by chance. NaN if a sample is empty.
 */
export function mannWhitney(one: readonly number[], other: readonly number[]): number {
  if (one.length === 0 || other.length === 0) return Number.NaN;
  const ranks = doubledRanks([...one, ...other]);
  const seen = ranks.slice(0, one.length).reduce((sum, rank) => sum + rank, 0);
  const total = ranks.reduce((sum, rank) => sum + rank, 0);
  const mean = (total * one.length) / ranks.length;
  // ways[k][sum]: in how many ways k of the values have this sum of ranks.
  const ways: Map<number, number>[] = Array.from({ length: one.length + 1 }, () => new Map());
  ways[0]?.set(0, 1);
  for (const rank of ranks) {
    for (let count = one.length; count > 0; count--) {
      const [to, from] = [ways[count], ways[count - 1]];
      for (const [sum, number] of from ?? []) to?.set(sum + rank, (to.get(sum + rank) ?? 0) + number);
    }
  }
  let all = 0;
  let extreme = 0;
  for (const [sum, number] of ways[one.length] ?? []) {
    all += number;
    if (Math.abs(sum - mean) >= Math.abs(seen - mean) - 1e-9) extreme += number;
  }
  return extreme / all;
}

/** Twice each value's rank, so that the mean rank of equals is a whole number. */
function doubledRanks(values: readonly number[]): number[] {
  return values.map((value) => {
    const less = values.filter((other) => other < value).length;
    const equal = values.filter((other) => other === value).length;
    return 2 * less + equal + 1;
  });
}
