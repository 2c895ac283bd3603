/** Who got how much of the device when, as clients saw it, and how unevenly. Pure; times are milliseconds of one clock. */

/** One request of a tenant. Service is counted when the client sees it: the prompt with the first chunk, then each token. */
export interface Served {
  readonly tenant: string;
  readonly sentAt: number;
  /** When each chunk came; none: it never began. */
  readonly chunksAt: readonly number[];
  /** When it ended, or was cut off. */
  readonly endedAt: number;
  /** Of the prompt, what was not cached. */
  readonly promptTokens: number;
  /** All its output, spread evenly over its chunks. */
  readonly outputTokens: number;
}

export interface Span {
  readonly from: number;
  readonly to: number;
}

interface Step {
  readonly at: number;
  readonly tokens: number;
}

/** As in the paper (VTC; Sheng et al., OSDI'24): an input token counts once, an output token twice. */
export const OUTPUT_WEIGHT = 2;

/** What these requests got, in weighted tokens, in the order of time. */
function stepsOf(requests: readonly Served[]): Step[] {
  return requests
    .flatMap(({ chunksAt, promptTokens, outputTokens }) =>
      chunksAt.map((at, index) => ({
        at,
        tokens: (OUTPUT_WEIGHT * outputTokens) / chunksAt.length + (index === 0 ? promptTokens : 0),
      })),
    )
    .toSorted((a, b) => a.at - b.at);
}

/** Weighted tokens that these requests got within the span. */
export const serviceIn = (requests: readonly Served[], { from, to }: Span): number =>
  stepsOf(requests).reduce((sum, { at, tokens }) => sum + (at >= from && at < to ? tokens : 0), 0);

/** When at least one of the requests had been sent and got nothing yet, without a break. */
export function backlogs(requests: readonly Served[]): Span[] {
  const waits = requests
    .map(({ sentAt, chunksAt, endedAt }) => ({ from: sentAt, to: chunksAt[0] ?? endedAt }))
    .toSorted((a, b) => a.from - b.from);
  const spans: { from: number; to: number }[] = [];
  for (const { from, to } of waits) {
    const last = spans.at(-1);
    if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to);
    else spans.push({ from, to });
  }
  return spans;
}

/** The spans in which both have something to wait for. */
export const common = (one: readonly Span[], other: readonly Span[]): Span[] =>
  one.flatMap((a) =>
    other.flatMap((b) => {
      const span = { from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) };
      return span.from < span.to ? [span] : [];
    }),
  );

export interface Gap {
  /** Weighted tokens. */
  readonly tokens: number;
  /** Milliseconds in which both were backlogged, of the pair that was so longest. */
  readonly millis: number;
}

/**
 * The largest |W_f(t1, t2) − W_g(t1, t2)| over all pairs of tenants and all t1 < t2 between which both are backlogged all the time:
 * what the paper's theorem bounds by 2 · max(w_p · L_input, w_q · M). Of the running difference D it is the largest D − D.
 */
export function serviceGap(requests: readonly Served[]): Gap {
  const byTenant = [...Map.groupBy(requests, ({ tenant }) => tenant).values()];
  const waits = byTenant.map(backlogs);
  const steps = byTenant.map(stepsOf);
  let [tokens, millis] = [0, 0];
  for (let f = 0; f < byTenant.length; f++) {
    for (let g = f + 1; g < byTenant.length; g++) {
      const both = [
        ...(steps[f] as Step[]),
        ...(steps[g] as Step[]).map((step) => ({ at: step.at, tokens: -step.tokens })),
      ].toSorted((a, b) => a.at - b.at);
      const spans = common(waits[f] as Span[], waits[g] as Span[]);
      for (const span of spans) tokens = Math.max(tokens, rangeOf(both, span));
      millis = Math.max(
        millis,
        spans.reduce((sum, { from, to }) => sum + to - from, 0),
      );
    }
  }
  return { tokens, millis };
}

function rangeOf(steps: readonly Step[], { from, to }: Span): number {
  let [now, least, most] = [0, 0, 0];
  for (const { at, tokens } of steps) {
    if (at < from || at >= to) continue;
    now += tokens;
    least = Math.min(least, now);
    most = Math.max(most, now);
  }
  return most - least;
}
