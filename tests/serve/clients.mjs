// Asks an address with the libraries that editors and chat programs are built on, each as its program sets it up.
// node clients.mjs URL MODEL QUESTION EMBEDDER: prints one JSON object, a value or {"error": ...} for each library.
const [url, model, question, embedder] = process.argv.slice(2);
const messages = [{ role: "user", content: question }];
const texts = ["one", "two"];
const found = {};

async function attempt(name, ask) {
  try {
    found[name] = await ask();
  } catch (error) {
    found[name] = error?.code === "ERR_MODULE_NOT_FOUND" ? null : { error: String(error?.message ?? error) };
  }
}

async function joined(stream, piece) {
  let text = "";
  for await (const chunk of stream) text += piece(chunk) ?? "";
  return text;
}

// AnythingLLM: server/utils/AiProviders/genericOpenAi and EmbeddingEngines/genericOpenAi
await attempt("openai", async () => {
  const { OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
  const asked = { model, messages, temperature: 0.7, max_tokens: 512 };
  return {
    models: (await client.models.list()).data.map((each) => each.id),
    whole: (await client.chat.completions.create(asked)).choices[0].message.content,
    stream: await joined(
      await client.chat.completions.create({ ...asked, stream: true }),
      (chunk) => chunk.choices[0]?.delta?.content,
    ),
    vectors: (await client.embeddings.create({ model: embedder, input: texts })).data.map((each) => each.embedding),
  };
});

// Copilot for Obsidian: src/LLMProviders/chatModelManager.ts and embeddingManager.ts
await attempt("langchain", async () => {
  const { ChatOpenAI, OpenAIEmbeddings } = await import("@langchain/openai");
  const configuration = { baseURL: `${url}/v1` };
  const options = { apiKey: "unused", streaming: true, maxRetries: 0, streamUsage: false, temperature: 0.1 };
  const chat = new ChatOpenAI({ modelName: model, ...options, configuration });
  const vectors = new OpenAIEmbeddings({ modelName: embedder, apiKey: "unused", maxRetries: 0, configuration });
  return {
    stream: await joined(await chat.stream(messages), (chunk) => chunk.content),
    vectors: await vectors.embedDocuments(texts),
  };
});

// The same, where its provider is Ollama
await attempt("langchain-ollama", async () => {
  const { ChatOllama } = await import("@langchain/ollama");
  const chat = new ChatOllama({ model, baseUrl: url, think: false, repeatPenalty: 1.1, numCtx: 4096 });
  return { stream: await joined(await chat.stream(messages), (chunk) => chunk.content) };
});

// Continue: core/llm/llms/OpenAI.ts asks through this package
await attempt("continue", async () => {
  const { constructLlmApi } = await import("@continuedev/openai-adapters");
  const api = constructLlmApi({ provider: "openai", apiBase: `${url}/v1/`, apiKey: "unused" });
  const signal = new AbortController().signal;
  const asked = { model, messages, stream: true, max_tokens: 512 };
  return {
    stream: await joined(api.chatCompletionStream(asked, signal), (chunk) => chunk.choices[0]?.delta?.content),
    vectors: (await api.embed({ model: embedder, input: texts })).data.map((each) => each.embedding),
  };
});

// Reor (0.0.53 beside ai 3): src/lib/llm/client.ts
await attempt("ai-sdk", async () => {
  const { streamText } = await import("ai");
  const { createOpenAI } = await import("@ai-sdk/openai");
  const provider = createOpenAI({ apiKey: "", baseURL: `${url}/v1` });
  const { textStream } = await streamText({ model: (provider.chat ?? provider)(model), messages });
  return { stream: await joined(textStream, (text) => text) };
});

console.log(JSON.stringify(found));
process.exit(0);
