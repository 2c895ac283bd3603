import { expect, test } from 'vitest';
import { modelNames, switchesSoFar } from './server.ts';

test('models of a list', () => {
  expect(modelNames({ object: 'list', data: [{ id: 'b' }, { id: 'a' }, {}, null] })).toEqual(['b', 'a']);
  expect(modelNames({ models: [] })).toBeNull();
  expect(modelNames(null)).toBeNull();
});

test('switches are moves onto the device; others don’t tell', () => {
  const text = [
    '# TYPE berth_switches_total counter',
    'berth_switches_total{model="a",to="device"} 3',
    'berth_switches_total{model="a",to="host"} 2',
    'berth_switches_total{model="b",to="device"} 1',
    'berth_switch_seconds_total{model="b",to="device"} 9',
  ].join('\n');
  expect(switchesSoFar(text)).toBe(4);
  expect(switchesSoFar('# TYPE berth_switches_total counter\n')).toBe(0);
  expect(switchesSoFar('vllm:num_requests_running 1')).toBeNull();
});
