import { expect, test } from 'vitest';
import { Story } from '../../test/story.ts';
import { requestId } from '../core/ids.ts';
import { unsettled } from './settled.ts';

test('what is not at rest is named: a request, a load, lanes', () => {
  const story = new Story({ models: { a: {} } });
  expect(unsettled(story.state)).toBeNull();
  story.ask('r1', 'a');
  expect(unsettled(story.state)).toBe('1 requests are left, the first is r1 of a (waiting, its model loading)');
  story.tell({ type: 'requestCancelled', requestId: requestId('r1') });
  expect(unsettled(story.state)).toBe('a is loading for ever');
  story.loaded('a');
  expect(unsettled(story.state)).toBeNull();
  story.ask('r2', 'a');
  story.finished('r2');
  expect(unsettled(story.state)).toBe('a holds lanes for ever');
  story.sliceEnded('a');
  expect(unsettled(story.state)).toBeNull();
});
