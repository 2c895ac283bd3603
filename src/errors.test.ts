import { expect, test } from 'vitest';
import { BerthError, ERRORS, asBerthError } from './errors.ts';

/** What stands before the table in docs/errors.md. */
const INTRODUCTION = `# Errors

Every error that Berth shows has one of these codes. The HTTP API answers with \`status\` and \`{"error": {"message", "type", "param", "code"}}\`;
the command line prints \`error: …\` and ends with \`exit\`. *Retry* says whether the very same request may succeed later (\`x-should-retry\`).
This page is made from \`src/errors.ts\` (\`npx vitest run --project unit src/errors.test.ts -u\`).

| code | status | type | exit | retry | what to do |
|---|---|---|---|---|---|
`;

test('docs/errors.md is the table', async () => {
  const rows = Object.entries(ERRORS).map(
    ([code, { status, type, exit, retryable, advice }]) =>
      `| \`${code}\` | ${status} | \`${type}\` | ${exit} | ${retryable ? 'yes' : 'no'} | ${advice} |\n`,
  );
  await expect(INTRODUCTION + rows.join('')).toMatchFileSnapshot('../docs/errors.md');
});

test('an unexpected failure becomes `internal`; a coded one stays what it is', () => {
  const coded = new BerthError('queue_full', 'too many', { retryAfterMicros: 5 });
  expect(asBerthError(coded)).toBe(coded);
  expect(asBerthError(new TypeError('x'))).toMatchObject({ code: 'internal' });
  expect(coded.kind).toBe(ERRORS.queue_full);
});
