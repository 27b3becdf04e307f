'use strict';
// A client of an agent service in Node: `node client.js ADDRESS` runs a job and a sync task there, and prints what came of them as JSON.
// The token is in the variable TOKEN. What it drives: an async agent `scripted` and a sync agent `do`, as the tests have them.

const {grpc, services, integer} = require('./flyteidl.js');

const metadata = new grpc.Metadata();
if (process.env.TOKEN) {
  metadata.set('authorization', `Bearer ${process.env.TOKEN}`);
}
const [address] = process.argv.slice(2);
const client = (service) => new services[service](address, grpc.credentials.createInsecure());
const [asynchronous, synchronous, listing] = ['AsyncAgentService', 'SyncAgentService', 'AgentMetadataService'].map(client);
const deadline = () => ({deadline: Date.now() + 20000});

const call = (of, method, request) => new Promise((resolve, reject) => {
  of[method](request, metadata, deadline(), (error, reply) => (error ? reject(error) : resolve(reply)));
});

const lines = (request) => new Promise((resolve, reject) => {
  const found = [];
  asynchronous.getTaskLogs(request, metadata, deadline())
    .on('data', ({body}) => found.push(...(body?.results ?? []), ...(body?.structuredLines ?? []).map(({message}) => message)))
    .on('error', reject)
    .on('end', () => resolve(found));
});

const execute = (template, inputs) => new Promise((resolve, reject) => {
  const stream = synchronous.executeTaskSync(metadata, deadline());
  stream.on('data', resolve).on('error', reject);
  stream.write({header: {template}});
  stream.write({inputs});
  stream.end();
});

const templateOf = (type, custom = {}) => ({
  type,
  custom: {fields: Object.fromEntries(Object.entries(custom).map(([key, value]) => [key, {stringValue: value}]))},
});

async function main() {
  const {agents} = await call(listing, 'listAgents', {});
  const taskCategory = {name: 'scripted', version: 0};
  const {resourceMeta} = await call(asynchronous, 'createTask', {template: templateOf('scripted', {message: 'done'}), outputPrefix: 'nowhere'});
  const {resource} = await call(asynchronous, 'getTask', {resourceMeta, taskCategory});
  await call(asynchronous, 'deleteTask', {resourceMeta, taskCategory});
  const none = await lines({resourceMeta, taskCategory}).catch(({code}) => grpc.status[code]);
  const sync = await execute(templateOf('echo'), {literals: {a: integer(3)}});
  const unknown = await call(asynchronous, 'createTask', {template: templateOf('scriptde')}).catch(({code, details}) => [grpc.status[code], details]);
  console.log(JSON.stringify({
    types: agents.flatMap(({supportedTaskCategories}) => supportedTaskCategories.map(({name}) => name)),
    meta: resourceMeta.toString(),
    phase: resource.phase,
    message: resource.message,
    logs: none,
    outputs: sync.header.resource.outputs.literals.a.scalar.primitive.integer,
    unknown,
  }));
}

main().then(() => process.exit(0), (error) => {
  console.log(JSON.stringify({error: grpc.status[error.code] ?? String(error), details: error.details}));
  process.exit(1);
});
