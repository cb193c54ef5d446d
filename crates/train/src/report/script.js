document.querySelectorAll("figure svg").forEach(function (svg) {
  var d = svg.dataset, x0 = +d.x0, x1 = +d.x1, y0 = +d.y0, y1 = +d.y1, box = d.box.split(" ").map(Number);
  var cursor = svg.querySelector(".cursor"), read = svg.parentNode.querySelector(".read");
  var series = Array.from(svg.querySelectorAll(".series")).map(function (g) {
    var points = [];
    g.querySelectorAll("polyline").forEach(function (line) {
      for (var i = 0; i < line.points.numberOfItems; i++) points.push([line.points[i].x, line.points[i].y]);
    });
    g.querySelectorAll("circle").forEach(function (c) { points.push([c.cx.baseVal.value, c.cy.baseVal.value]); });
    return [g.dataset.name, points];
  });
  function show(value) {
    var size = Math.abs(value);
    return size >= 1e4 ? Math.round(value).toLocaleString("en") : size >= 0.01 || size === 0 ? +value.toFixed(3) : value.toExponential(2);
  }
  svg.addEventListener("pointermove", function (e) {
    var at = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    var x = Math.max(box[0], Math.min(box[1], at.x));
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
    var parts = ["step " + Math.round(x0 + (x - box[0]) / (box[1] - box[0]) * (x1 - x0)).toLocaleString("en")];
    series.forEach(function (s) {
      var near = null;
      s[1].forEach(function (p) { if (!near || Math.abs(p[0] - x) < Math.abs(near[0] - x)) near = p; });
      if (!near || Math.abs(near[0] - x) > 60) return;
      var y = y0 + (box[3] - near[1]) / (box[3] - box[2]) * (y1 - y0);
      parts.push(s[0] + " " + show(d.log === "1" ? Math.pow(10, y) : y));
    });
    read.textContent = parts.join(" · ");
  });
  svg.addEventListener("pointerleave", function () { cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); read.textContent = ""; });
});
