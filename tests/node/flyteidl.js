'use strict';
// The services of Flyte's agents for Node: from the .proto files of @flyteorg/flyteidl, with its compiled messages for what goes into a file.

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const {flyteidl: messages} = require('@flyteorg/flyteidl/gen/pb-js/flyteidl.js');

const folder = (name) => path.dirname(require.resolve(`${name}/package.json`));
const loaded = loader.loadSync('flyteidl/service/agent.proto', {
  includeDirs: [path.join(folder('@flyteorg/flyteidl'), 'protos'), folder('protobufjs')],  // the latter has google/api
  enums: String,
  longs: Number,
  defaults: true,
  oneofs: true,
});
const {flyteidl} = grpc.loadPackageDefinition(loaded);

// A google.protobuf.Struct as a plain object.
const plain = (struct) => Object.fromEntries(Object.entries(struct?.fields ?? {}).map(([key, value]) => [key, value[value.kind]]));
const integer = (value) => ({scalar: {primitive: {integer: value}}});
const text = (value) => ({scalar: {primitive: {stringValue: value}}});
const literal = (map, name) => {
  const primitive = map?.literals[name]?.scalar?.primitive;
  return primitive && primitive[primitive.value];
};

module.exports = {grpc, messages, services: flyteidl.service, plain, integer, text, literal};
