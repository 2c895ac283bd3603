import { expect, test } from 'vitest';
import { tenantId } from '../core/ids.ts';
import { authenticate, credentialOf, openDoor, staticKeys } from './auth.ts';

test('Bearer comes before x-api-key, in any case of the word', () => {
  expect(credentialOf({ authorization: 'Bearer k1', 'x-api-key': 'k2' })).toBe('k1');
  expect(credentialOf({ authorization: 'bearer  k1' })).toBe('k1');
  expect(credentialOf({ authorization: 'Basic k1', 'x-api-key': 'k2' })).toBe('k2');
  expect(credentialOf({ authorization: 'Bearer a b' })).toBeNull();
  expect(credentialOf({ 'x-api-key': '' })).toBeNull();
});

test('a key names its tenant', async () => {
  const auth = staticKeys(['k1', { key: 'k2', tenantId: tenantId('acme'), keyId: 'ci' }]);
  expect(await authenticate(auth, { 'x-api-key': 'k1' })).toEqual({ tenantId: 'default', keyId: 'key-1' });
  expect(await authenticate(auth, { authorization: 'Bearer k2' })).toEqual({ tenantId: 'acme', keyId: 'ci' });
});

test('no key and a wrong key are told apart, and the key is not repeated', async () => {
  const auth = staticKeys(['k1']);
  await expect(authenticate(auth, {})).rejects.toThrow('No API key was sent');
  const wrong = authenticate(auth, { 'x-api-key': 'k1-but-wrong' });
  await expect(wrong).rejects.toThrow('not known');
  await expect(wrong).rejects.not.toThrow('k1-but-wrong');
});

test('without keys everyone is the default tenant', async () => {
  expect(await authenticate(openDoor, { authorization: 'Bearer whatever' })).toEqual({
    tenantId: 'default',
    keyId: null,
  });
});

test('an empty key is a mistake, not a door', () => {
  expect(() => staticKeys([' '])).toThrow('empty');
});
