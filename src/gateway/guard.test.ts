import { describe, expect, test } from 'vitest';
import { guard, hostName, isLoopback, originMatches } from './guard.ts';

describe('host names', () => {
  test.each([
    ['localhost:8420', 'localhost'],
    ['127.0.0.1', '127.0.0.1'],
    ['[::1]:8420', '::1'],
    ['Example.COM.:80', 'example.com'],
  ])('%s is %s', (host, name) => {
    expect(hostName(host)).toBe(name);
  });
  test('loopback names', () => {
    expect(['localhost', 'a.localhost', '127.9.9.9', '::1'].every(isLoopback)).toBe(true);
    expect(['127.evil.com', 'localhost.evil.com', '0.0.0.0', '10.0.0.1', ''].some(isLoopback)).toBe(false);
  });
});

describe('a page that rebinds its name', () => {
  test('is refused by its Host', () => {
    expect(() => guard('GET', { host: 'evil.example:8420' }, {})).toThrow('host name');
  });
  test('is let in when the name is configured', () => {
    expect(guard('GET', { host: 'node.example' }, { allowedHosts: ['NODE.example'] }).corsOrigin).toBeNull();
    expect(guard('GET', { host: 'any.example' }, { allowedHosts: ['*'] }).corsOrigin).toBeNull();
  });
  test('addresses and loopback names can’t be rebound', () => {
    for (const host of ['192.168.1.5:8420', '[fe80::1]', 'localhost', '127.0.0.1:1']) guard('POST', { host }, {});
  });
});

describe('a cross-site request', () => {
  const host = 'localhost:8421';
  test('may not write', () => {
    for (const origin of ['https://evil.example', 'null', 'http://localhost:3000']) {
      expect(() => guard('POST', { host, origin }, {})).toThrow('origin');
      expect(() => guard('DELETE', { host, origin }, {})).toThrow('origin');
    }
  });
  test('reads nothing that it can see: no CORS header', () => {
    expect(guard('GET', { host, origin: 'https://evil.example' }, {}).corsOrigin).toBeNull();
  });
  test('the node’s own page may write', () => {
    guard('POST', { host, origin: 'http://localhost:8421' }, {});
  });
  test('a configured origin may write and read', () => {
    const options = { allowedOrigins: ['http://localhost:*'] };
    expect(guard('POST', { host, origin: 'http://localhost:3000' }, options).corsOrigin).toBe('http://localhost:3000');
  });
});

test.each([
  ['http://a.example', '*', true],
  ['http://a.example', 'http://a.example', true],
  ['http://A.example', 'http://a.example', true],
  ['http://a.example.evil', 'http://a.example', false],
  ['http://localhost:3000', 'http://localhost:*', true],
  ['http://localhost', 'http://localhost:*', false],
  ['https://x.a.example:1', 'https://*.a.example:*', true],
  ['https://evil.example/.a.example:', 'https://*.b.example:*', false],
  ['app://page', 'app://*', true],
])('origin %s against %s: %s', (origin, pattern, matches) => {
  expect(originMatches(origin, pattern)).toBe(matches);
});
