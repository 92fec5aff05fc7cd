// An authorization server made of oidc-provider, on the loopback interface.
//
// Its configuration is the first argument, in JSON. It writes one line when it
// listens, {"issuer": ...}. Each line that it reads asks for tokens, and each
// is answered with one. It ends when its standard input does, so it does not
// outlive the test.
import { createServer } from 'node:http';
import { generateKeyPairSync, webcrypto } from 'node:crypto';
import { createInterface } from 'node:readline';

// Debian 12 has Node.js 18, which lacks these.
globalThis.crypto ??= webcrypto;
globalThis.CryptoKey ??= webcrypto.CryptoKey;
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);

console.info = console.error; // standard output is for the test alone

const { default: Provider } = await import('oidc-provider');

const { audience, clients, signedResponses } = JSON.parse(process.argv[2]);

function newKey(type, options, members) {
  return { ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...members };
}

let handle;
const server = createServer((request, response) => handle(request, response));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

// What the resource server's tokens are like, each kind under a URL of its own.
function resourceServer(format) {
  return {
    audience,
    accessTokenFormat: format,
    accessTokenTTL: 600,
    scope: 'orders:read orders:write',
    jwt: { sign: { alg: 'ES256' } },
  };
}

const provider = new Provider(issuer, {
  jwks: {
    keys: [
      newKey('rsa', { modulusLength: 2048 }, { kid: 'rsa', alg: 'RS256' }),
      newKey('ec', { namedCurve: 'P-256' }, { kid: 'ec', alg: 'ES256' }),
    ],
  },
  cookies: { keys: ['none is set'] },
  scopes: ['openid', 'offline_access', 'orders:read', 'orders:write'],
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    jwtIntrospection: { enabled: signedResponses },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => resourceServer('opaque'),
    },
  },
  clients: clients.map((client) => ({ redirect_uris: [], response_types: [], grant_types: [], ...client })),
});
handle = provider.callback();

// issue makes what the authorization code grant would: the user is not played.
async function issue({ subject, scope, format }) {
  const client = await provider.Client.find('app');
  const grant = new provider.Grant({ accountId: subject, clientId: client.clientId });
  grant.addResourceScope(audience, scope);
  const grantId = await grant.save();

  const common = { accountId: subject, client, grantId, gty: 'authorization_code', scope };
  const access = new provider.AccessToken(common);
  access.resourceServer = new provider.ResourceServer(audience, resourceServer(format));
  const refresh = new provider.RefreshToken({ ...common, resource: audience });
  return { access: await access.save(), refresh: await refresh.save() };
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
say({ issuer });
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say(await issue(JSON.parse(line)));
  } catch (error) {
    say({ error: String(error?.stack ?? error) });
  }
}
process.exit(0);
