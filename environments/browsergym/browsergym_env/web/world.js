// In the place of clock.js for sites of the network: the page has the time of the world.
(() => {
  const later = window.setTimeout.bind(window);
  const frame = window.requestAnimationFrame.bind(window);
  window.__openenv = {
    advance: (milliseconds) => new Promise((done) => later(done, milliseconds)),
    settle: () => new Promise((done) => frame(() => frame(() => done()))),
  };
})();
