/** What a server tells of itself besides its answers: its models, and how often it changed them. */

/** The names of `GET /v1/models`, in its order. null: it is no such list. */
export function modelNames(body: unknown): string[] | null {
  const { data } = (typeof body === 'object' && body !== null ? body : {}) as { readonly data?: unknown };
  if (!Array.isArray(data)) return null;
  return data.flatMap((one: { readonly id?: unknown } | null) => (typeof one?.id === 'string' ? [one.id] : []));
}

/** Models that a Berth node has brought onto its device so far, from the text of its /metrics. null: no Berth node. */
export function switchesSoFar(metrics: string): number | null {
  if (!metrics.includes('# TYPE berth_switches_total ')) return null;
  let sum = 0;
  for (const line of metrics.split('\n')) {
    if (line.startsWith('berth_switches_total{') && line.includes('to="device"'))
      sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}
